"""Checkpoints at URLs: their files are copied whole between the URL and a local copy (`foundation.mirror`).

An object store has no rename, so a checkpoint there counts once it has its manifest `SHA256SUMS`, which is uploaded
last and deleted first. Its files are named by the manifest, and compared with it when they are read, as on a disk.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from msm_jax.checkpoints import integrity, workdirs
from msm_jax.foundation import lock, mirror, storage
from msm_jax.foundation.storage import Location

_CHECKPOINTS = "checkpoints"
_MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


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


def commit(written: Path, path: Path) -> None:
    """Copies a checkpoint that lies at `written` to the URL of `path`, if that is the copy of one.

    The records of its run go before it.

    Raises:
        WorkError: the storage does not answer, or refuses.
    """
    url = mirror.url_of(path)
    if url is None:
        return
    workdirs.push_records(path.parent.parent)
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


def complete(path: Path, entries: Collection[str] | None = None) -> None:
    """Copies the files of some entries of a checkpoint, or all, that its local copy lacks, if it is the copy of one.

    Raises:
        InputError, WorkError: they cannot be read.
    """
    url = mirror.url_of(path)
    lacking = set(integrity.listed(path, entries)) - set(_files(path)) if url is not None else set()
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


def _copy(url: str, path: Path) -> None:
    """Copies a checkpoint in place of what lies at `path`, its manifest last."""
    shutil.rmtree(path, ignore_errors=True)
    mirror.pull(url, path, (name for name in mirror.files_at(url) if name != integrity.NAME))
    mirror.pull(url, path, [integrity.NAME])


def _manifest_of(path: Path) -> bytes | None:
    manifest = path / integrity.NAME
    return manifest.read_bytes() if manifest.is_file() else None


def _files(directory: Path) -> list[str]:
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(files)
