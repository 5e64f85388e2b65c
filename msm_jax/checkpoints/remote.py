"""Runs at URLs: their records and checkpoints are copied whole between the URL and a local copy (`foundation.mirror`).

An object store has no rename, so a checkpoint there counts once it has its manifest `SHA256SUMS`, which is uploaded
last and deleted first. Its files are named by the manifest, and compared with it when they are read, as on a disk.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from msm_jax.checkpoints import integrity
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import lock, mirror, storage
from msm_jax.foundation.storage import Location

_CHECKPOINTS = "checkpoints"
_REFERENCES = "references"
_MANIFEST = "manifest.json"
# What a run writes for itself alone, or what others write beside it.
_OURS = ("lock", "cache", _CHECKPOINTS, _REFERENCES)
# Said last: it marks a run as done.
_LAST = "result.json"

# The records that are at their URL as they are here: {local file: (time of change, size)}.
_sent: dict[Path, tuple[int, int]] = {}

log = logging.getLogger(__name__)


@contextlib.contextmanager
def working(workdir: Location) -> Iterator[Path]:
    """Yields the directory on this machine in which a run works: the workdir, or for a URL its local copy.

    At a URL, the run is held (`foundation.lock`), its records and its newest checkpoint are copied here, and what the
    block leaves is copied back when it ends, however it ends. `store.Writer` copies each checkpoint before it counts.
    The local copy is removed when the block ends without an exception.

    Raises:
        InputError: another process has the workdir, or several hosts share it.
        WorkError: the storage does not answer, or refuses.
    """
    if not storage.is_url(workdir):
        yield Path(workdir)
        return
    given = str(workdir).rstrip("/")
    local = mirror.place(given, "written")
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        raise InputError(
            f"{given}: a run on several hosts writes its checkpoints to a file system that they share; give a "
            "directory of one"
        )
    with lock.hold(given):
        _pull(given, local)
        try:
            yield local
        except BaseException:  # a signal too, after which the records say how far the run has come
            with contextlib.suppress(WorkError):  # the error that ended the work says more
                push_records(local)
            raise
        push_records(local)
    shutil.rmtree(local)


@contextlib.contextmanager
def made(target: Location, last: str) -> Iterator[Path]:
    """Yields the directory on this machine at which a block makes a new one: the target, or a place to upload from.

    At a URL, the file `last` is uploaded after all others, so that its presence says that the rest is there.

    Raises:
        InputError: there is something at the URL, or another process makes it.
        WorkError: the storage does not answer, or refuses.
    """
    if not storage.is_url(target):
        yield Path(target)
        return
    url = str(target).rstrip("/")
    local = mirror.place(url, "written")
    with lock.hold(url):
        storage.refuse_occupied(url)
        shutil.rmtree(local, ignore_errors=True)
        try:
            yield local
            mirror.push(local, url, _files(local), last)
        finally:
            shutil.rmtree(local, ignore_errors=True)


def push_records(run_dir: Path) -> None:
    """Makes the files of a run at its URL those of its local copy, checkpoints aside; does nothing for another run.

    Raises:
        WorkError: the storage does not answer, or refuses.
    """
    url = mirror.url_of(run_dir)
    if url is None or not run_dir.is_dir():
        return
    versions = {name: _version(run_dir / name) for name in _records(run_dir)}
    changed = [name for name, version in versions.items() if _sent.get(run_dir / name) != version]
    mirror.push(run_dir, url, changed, _LAST)
    _sent.update({run_dir / name: versions[name] for name in changed})
    for name in mirror.files_at(url):
        if _is_record(name) and not (run_dir / name).exists():
            storage.remove(f"{url}/{name}")


def commit(written: Path, path: Path) -> None:
    """Copies a checkpoint that lies at `written` to the URL of `path`, if that is the copy of one.

    The records of its run go before it.

    Raises:
        WorkError: the storage does not answer, or refuses.
    """
    url = mirror.url_of(path)
    if url is None:
        return
    push_records(path.parent.parent)
    mirror.remove(url, integrity.NAME)  # what an upload left that did not end
    mirror.push(written, url, _files(written), integrity.NAME)


def remove(path: Path) -> None:
    """Deletes a checkpoint at the URL of its run, if it has one.

    Raises:
        WorkError: the storage does not answer, or refuses.
    """
    url = mirror.url_of(path)
    if url is not None:
        mirror.remove(url, integrity.NAME)


def complete(path: Path) -> None:
    """Copies the files of a checkpoint that its local copy lacks, if it is the copy of one.

    Raises:
        InputError, WorkError: they cannot be read.
    """
    url = mirror.url_of(path)
    lacking = set(integrity.listed(path)) - set(_files(path)) if url is not None else set()
    if url is not None and lacking:
        mirror.pull(url, path, sorted(lacking & set(mirror.files_at(url))))


def renew(path: Path) -> bool:
    """Copies a checkpoint again, whose copy was found damaged; returns False where it is not the copy of one.

    Raises:
        InputError, WorkError: it cannot be read.
    """
    url = mirror.url_of(path)
    if url is None or not storage.exists(f"{url}/{integrity.NAME}"):
        return False
    _copy(url, path)
    return True


def find(url: str) -> Path | None:
    """Copies a checkpoint at a URL, or the newest one of a run there, and returns the copy; None where there is none.

    A copy that this machine has is used again if its manifest is still that of the checkpoint.

    Raises:
        InputError, WorkError: it cannot be read.
    """
    url = url.rstrip("/")
    if not storage.exists(f"{url}/{integrity.NAME}"):
        run = url.removesuffix(f"/{_CHECKPOINTS}")
        steps = steps_at(run)
        if not steps:
            return None
        url = f"{run}/{_CHECKPOINTS}/{steps[-1]}"
    path = mirror.place(url, "read")
    with lock.exclusive(path.with_name(f"{path.name}.lock"), lambda: log.info("%s: is being copied", url)):
        if _manifest_of(path) != storage.read_bytes(f"{url}/{integrity.NAME}"):
            log.info("%s: is copied to this machine", url)
            _copy(url, path)
        run, below, _ = url.rpartition(f"/{_CHECKPOINTS}/")
        if below and storage.exists(f"{run}/{_MANIFEST}"):  # descendants name it by its hash
            mirror.pull(run, path.parent.parent, [_MANIFEST])
    return path


def steps_at(run_url: str) -> list[int]:
    """Returns the steps of the committed checkpoints of a run at a URL, ascending."""
    pattern = re.compile(rf"(\d+)/{re.escape(integrity.NAME)}")
    matches = map(pattern.fullmatch, mirror.files_at(f"{run_url}/{_CHECKPOINTS}"))
    return sorted(int(match[1]) for match in matches if match)


def _pull(url: str, local: Path) -> None:
    """Copies a run from its URL: records, the newest checkpoint, the manifests of the others; drops the rest."""
    steps = {str(step): f"{url}/{_CHECKPOINTS}/{step}" for step in steps_at(url)}
    root = local / _CHECKPOINTS
    for path in root.iterdir() if root.is_dir() else ():
        if path.name not in steps or _manifest_of(path) != storage.read_bytes(f"{steps[path.name]}/{integrity.NAME}"):
            shutil.rmtree(path)
    for name in _records(local):
        (local / name).unlink()
    names = [name for name in mirror.files_at(url) if _is_record(name)]
    mirror.pull(url, local, names)
    _sent.update({local / name: _version(local / name) for name in names})
    mirror.pull(f"{url}/{_CHECKPOINTS}", root, (f"{step}/{integrity.NAME}" for step in steps))
    if steps:
        complete(root / max(steps, key=int))


def _copy(url: str, path: Path) -> None:
    """Copies a checkpoint in place of what lies at `path`, its manifest last."""
    shutil.rmtree(path, ignore_errors=True)
    mirror.pull(url, path, (name for name in mirror.files_at(url) if name != integrity.NAME))
    mirror.pull(url, path, [integrity.NAME])


def _manifest_of(path: Path) -> bytes | None:
    manifest = path / integrity.NAME
    return manifest.read_bytes() if manifest.is_file() else None


def _records(run_dir: Path) -> list[str]:
    return [name for name in _files(run_dir) if _is_record(name)]


def _is_record(name: str) -> bool:
    return name.partition("/")[0] not in _OURS and not name.rpartition("/")[2].startswith(".")


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _files(directory: Path) -> list[str]:
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(files)
