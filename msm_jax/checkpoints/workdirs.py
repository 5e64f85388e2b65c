"""Workdirs at URLs: a command works on a local copy (`foundation.mirror`), between which and the URL whole files go.

A workdir is a run, or holds an experiment, evals or a sweep, with the runs of phases somewhere below. Its files are the
checkpoints of these runs (`remote`) and records, which are all others. Work begins with the records of the URL and the
manifests of its checkpoints, whose files follow when one is read; what only the copy has is dropped.

The process that writes a record pushes it. So a command does not push what is in the store of its workdir: the
processes that make these results do so.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from msm_jax.checkpoints import integrity
from msm_jax.errors import InputError
from msm_jax.foundation import databases, lock, mirror, storage
from msm_jax.foundation.storage import Location

# Where a run may be: at the top, or below an experiment or a store, which may be parts of a sweep.
_PART = r"(?:points/[^/]+/|store/)?"
_RUN = rf"{_PART}(?:phases/[^/]+/)?"
_CHECKPOINT = re.compile(rf"{_RUN}checkpoints/[^/]+")
_COMMITTED = re.compile(rf"({_RUN}checkpoints/\d+)/{re.escape(integrity.NAME)}")
# Checkpoints, what is for this machine alone, and what other runs write.
_NO_RECORD = re.compile(
    rf"{_RUN}(?:checkpoints|cache|references)/.*|{_PART}locks/.*|(?:.*/)?(?:lock|[^/]*\.lock|\.[^/]*(?:/.*)?)"
)
_RESULT = re.compile(rf"{_PART}(?:worlds|corpora|tokenizers|phases|code_books|evals)/.*")
# Pushed last, in this order: each says that what it stands for is complete.
_LAST = ("result.json", "done.json", "report.node.json")

# The records that are at their URL as they are here: {local file: (time of change, size)}.
_sent: dict[Path, tuple[int, int]] = {}
_pushing = threading.Lock()


@dataclass(frozen=True)
class Held:
    """Where the workdir and the store of a command are on this machine, and the locks that worker processes inherit."""

    workdir: Path
    store: Path
    descriptors: list[int]


@contextlib.contextmanager
def held(workdir: Location, store: Location | None = None) -> Iterator[Held]:
    """Holds the workdir of a command, and its store if that is at a URL; yields where they are on this machine.

    A local copy is removed when the block ends without an exception. `pushed` pushes what the block leaves in it.

    Args:
        workdir: a directory or a URL.
        store: another one, for results; None for the workdir.

    Raises:
        InputError: another process has one of them, or the store is on this machine while the workdir is not.
        WorkError: the storage does not answer, or refuses.
    """
    given = [workdir] if store is None else [workdir, store]
    if storage.is_url(workdir) and not all(map(storage.is_url, given)):
        raise InputError(f"{store}: is on this machine and {workdir} is not; give the store a URL too")
    with contextlib.ExitStack() as stack:
        paths, descriptors = list[Path](), list[int]()
        for each in given:
            url = _trimmed(each) if storage.is_url(each) else None
            path = Path(each) if url is None else mirror.place(url, "written")
            if path not in paths and (url is not None or not paths):
                # First the copy, where the workers of a run that was killed may still work.
                descriptors += stack.enter_context(lock.hold(path))
            if path not in paths and url is not None:
                stack.enter_context(_copied(url, path, but="lock"))
            paths.append(path)
        yield Held(paths[0], paths[-1], descriptors)


@contextlib.contextmanager
def opened(workdir: Location) -> Iterator[Path]:
    """Holds the workdir of a command whose process works alone, and yields where it is on this machine; see `held`.

    What the block leaves in it is pushed, however it ends.

    Raises:
        InputError: another process has it.
        WorkError: the storage does not answer, or refuses.
    """
    with held(workdir) as found, pushed(found.workdir):
        yield found.workdir


@contextlib.contextmanager
def working(run_dir: Location) -> Iterator[Path]:
    """Yields the directory on this machine in which a run works: the given one, or for a URL its local copy.

    The URL is held; the loop of a phase holds a directory itself. What the block leaves is pushed, however it ends.

    Raises:
        InputError: another process has the URL, or several hosts share it.
        WorkError: the storage does not answer, or refuses.
    """
    if not storage.is_url(run_dir):
        yield Path(run_dir)
        return
    url = _trimmed(run_dir)
    local = mirror.place(url, "written")
    with _copied(url, local), pushed(local):
        yield local


@contextlib.contextmanager
def _copied(url: str, local: Path, but: str = "") -> Iterator[None]:
    """Holds a URL and has a local copy of it, of which all `but` one file is removed when the block ends well."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        raise InputError(
            f"{url}: a run on several hosts writes its checkpoints to a file system that they share; give a "
            "directory of one"
        )
    with lock.hold(url):
        _pull(url, local)
        yield
        for each in local.iterdir() if local.is_dir() else ():
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            elif each.name != but:
                each.unlink()
        with contextlib.suppress(OSError):
            local.rmdir()


@contextlib.contextmanager
def pushed(*directories: Path, results: bool = True) -> Iterator[None]:
    """Pushes the records of copies of URLs twice a minute while the block runs, and when it ends, however it ends.

    What is in them when the block begins is at their URLs already.

    Args:
        directories: those that are no copies are left alone.
        results: whether what lies in the directories of a store is pushed too.

    Raises:
        WorkError: the last push failed.
    """
    copies = [directory for directory in directories if mirror.url_of(directory) is not None]
    for directory in copies:
        _sent.update({directory / name: _version(directory / name) for name in _records(directory, results)})

    def push() -> None:
        for directory in copies:
            push_records(directory, results)

    with mirror.kept_up(push) if copies else contextlib.nullcontext():
        yield


def push_records(directory: Path, results: bool = True) -> None:
    """Pushes the records of a directory that have changed, and deletes those that are gone, if it is the copy of a URL.

    Raises:
        WorkError: the storage does not answer, or refuses.
    """
    url = mirror.url_of(directory)
    if url is None or not directory.is_dir():
        return
    with _pushing:
        found = {}
        for name in _records(directory, results):
            with contextlib.suppress(FileNotFoundError):  # replaced or deleted meanwhile
                found[name] = _version(directory / name)
        changed = [name for name, version in found.items() if _sent.get(directory / name) != version]
        mirror.push(directory, url, changed, *_LAST)
        _sent.update({directory / name: found[name] for name in changed})
        for path in [path for path in _sent if path.is_relative_to(directory) and not path.exists()]:
            storage.remove(f"{url}/{path.relative_to(directory).as_posix()}")
            del _sent[path]


def fetched(directory: Location) -> Path:
    """Returns a directory on this machine: the given one, or a copy of the records at a URL, which is not held.

    Raises:
        InputError, WorkError: they cannot be read.
    """
    if not storage.is_url(directory):
        return Path(directory)
    local = mirror.place(_trimmed(directory), "written")
    _pull(_trimmed(directory), local)
    return local


def _pull(url: str, local: Path) -> None:
    """Copies the records below a URL and the manifests of its checkpoints; drops what only the copy has."""
    names = set(mirror.files_at(url))
    committed = {match[1] for match in map(_COMMITTED.fullmatch, names) if match}
    for path in list(local.rglob("checkpoints/*")):
        name = path.relative_to(local).as_posix()
        if not _CHECKPOINT.fullmatch(name):
            continue
        manifest = path / integrity.NAME
        content = manifest.read_bytes() if manifest.is_file() else None
        if name not in committed or content != storage.read_bytes(f"{url}/{name}/{integrity.NAME}"):
            shutil.rmtree(path)
    for path in [path for path in _sent if path.is_relative_to(local)]:
        del _sent[path]
    for name in _records(local):
        (local / name).unlink()
    for path in list(local.rglob(f"*{databases.SUFFIX}")):
        if path.relative_to(local).as_posix() not in names:
            databases.remove(path)
    mirror.pull(url, local, sorted(name for name in names if _is_record(name)))
    mirror.pull(url, local, sorted(f"{name}/{integrity.NAME}" for name in committed))
    for name in sorted(name for name in names if name.endswith(databases.SUFFIX)):
        databases.pull(f"{url}/{name}", local / name)


def _records(directory: Path, results: bool = True) -> list[str]:
    """Returns the records of a local directory, with or without those in the directories of a store."""
    found = []
    for above, below, names in os.walk(directory):  # which goes on where a directory is deleted meanwhile
        prefix = Path(above).relative_to(directory).as_posix().removeprefix(".") + "/"
        below[:] = [name for name in below if _is_record(f"{prefix}{name}/any".lstrip("/"))]
        found += [f"{prefix}{name}".lstrip("/") for name in names]
    return sorted(name for name in found if _is_record(name) and (results or not _RESULT.fullmatch(name)))


def _is_record(name: str) -> bool:
    """Returns whether a file is copied as it is; a database is copied by `databases`."""
    return not (databases.is_database(name) or _NO_RECORD.fullmatch(name))


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _trimmed(url: Location) -> str:
    protocol, _, path = str(url).partition("://")
    return f"{protocol}://{path.rstrip('/')}"
