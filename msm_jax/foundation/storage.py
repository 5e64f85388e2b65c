"""Files and directories that appear whole or not at all, on a local disk or at any URL that fsspec reads and writes.

A path is a `Path`, a string, or a URL such as `gs://bucket/run/file` (with the package gcsfs) or `memory://run/file`.
Keep a URL a string: `Path` would take one of its slashes away.

On a disk, a file is written under a temporary name, synced and renamed. An object store has no rename that is atomic,
but a file there appears when its upload ends, so it is written in place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import fsspec

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import retrying

Location = str | os.PathLike[str]

# The names that `_temporary` gives.
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


def is_url(path: Location) -> bool:
    """Returns whether a path is a URL, which fsspec reads and writes."""
    return "://" in os.fspath(path)


def file_system(url: str) -> Any:
    """Returns fsspec's file system of a URL.

    Raises:
        InputError: the protocol is unknown, or the package that it needs is not installed.
    """
    more = {"auto_mkdir": True} if url.startswith(("file://", "local://")) else {}
    try:
        return fsspec.core.url_to_fs(url, **more)[0]
    except ImportError as error:
        raise InputError(f"{url}: cannot be read yet: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}; use a local path or gs://") from None


def exists(path: Location) -> bool:
    """Returns whether a file or directory exists."""
    if not is_url(path):
        return Path(path).exists()
    files = file_system(str(path))
    with reading(path):
        return bool(retrying.call(path, lambda: files.exists(path)))


@contextlib.contextmanager
def reading(path: Location) -> Iterator[None]:
    """Turns what keeps a file from being read into one line.

    Raises:
        InputError: the file is missing or not readable.
        WorkError: the storage does not answer.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: not readable; check its permissions") from None
    except retrying.failures() as error:
        problem = " ".join(str(error).split())[:200]
        if problem.startswith("Forbidden"):  # gcsfs's word for what it was denied
            raise InputError(f"{path}: not readable ({problem}); check its permissions and your credentials") from None
        raise WorkError(f"{path}: reading fails ({problem}); run again") from error


def open_file(path: Location) -> BinaryIO:
    """Opens a file for reading bytes; it can seek.

    Raises:
        InputError, WorkError: as `reading`.
    """
    with reading(path):
        return file_system(str(path)).open(path, "rb") if is_url(path) else open(path, "rb")


def read_bytes(path: Location) -> bytes:
    """Returns the content of a file.

    Raises:
        InputError, WorkError: as `reading`.
    """
    if is_url(path):
        files = file_system(str(path))
        with reading(path):
            return bytes(retrying.call(path, lambda: files.cat_file(path)))
    with reading(path), open_file(path) as file:
        return file.read()


def read_json(path: Location) -> Any:
    """Returns the value that a JSON file holds.

    Raises:
        InputError: the file is missing, not readable or not JSON.
        WorkError: the storage does not answer.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON: {error}") from error


def find_json(path: Location) -> Any:
    """Returns the value that a JSON file holds, None where the file does not exist or does not parse."""
    try:
        return json.loads(read_bytes(path))
    except ValueError:
        return None


def write_bytes(path: Location, content: bytes) -> None:
    """Writes a file whole or not at all, and the directories above it where they are missing.

    Raises:
        WorkError: the file cannot be written (disk full, no permission).
    """
    with writing(path):
        if is_url(path):
            files = file_system(str(path))
            retrying.call(path, lambda: files.pipe_file(path, content))
            return
        with _replacing(Path(path), "wb") as file:
            file.write(content)


def create(url: str, content: bytes) -> bool:
    """Writes a file at a URL if there is none; returns whether it did.

    `foundation.lock` says which file systems decide this themselves, and which look first and write then. Where a call
    fails after it has written, trying again finds the file and returns False.

    Raises:
        WorkError: the storage does not answer, or refuses.
    """
    files = file_system(url)

    def attempt() -> bool:
        try:
            files.pipe_file(url, content, mode="create")
        except retrying.failures():
            files.invalidate_cache()
            if files.exists(url):  # every client has an error of its own for this
                return False
            raise
        return True

    with writing(url):
        return retrying.call(url, attempt)


def remove(url: str) -> None:
    """Deletes the file at a URL, if there is one.

    Raises:
        WorkError: the storage does not answer, or refuses.
    """
    files = file_system(url)
    with writing(url), contextlib.suppress(FileNotFoundError):
        retrying.call(url, lambda: files.rm_file(url))


def download(url: str, path: Path) -> None:
    """Copies the file at a URL to a local one, whole or not at all.

    Raises:
        InputError, WorkError: as `reading` and `writing`.
    """
    files, temporary = file_system(url), _temporary(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with reading(url):
            retrying.call(url, lambda: files.get_file(url, str(temporary)))
        with writing(path):
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def upload(path: Path, url: str) -> None:
    """Copies a local file to a URL; in an object store it appears whole when its upload ends.

    Raises:
        FileNotFoundError: there is no local file.
        WorkError: the storage does not answer, or refuses.
    """
    path.stat()
    files = file_system(url)
    with writing(url):
        retrying.call(url, lambda: files.put_file(str(path), url))


@contextlib.contextmanager
def new_file(path: Location) -> Iterator[IO[str]]:
    """Yields a text file in UTF-8, which becomes the local file `path` if the block ends without an exception.

    Raises:
        WorkError: it cannot be written (disk full, no permission).
    """
    with writing(path), _replacing(Path(path), "w", encoding="utf-8") as file:
        yield file


@contextlib.contextmanager
def _replacing(local: Path, mode: str, encoding: str | None = None) -> Iterator[IO[Any]]:
    """Yields a file beside `local`, on disk and in its place once the block ends without an exception."""
    temporary = _temporary(local)
    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(local)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Location, text: str) -> None:
    """Writes a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Location, value: Any) -> None:
    """Writes a value as indented JSON; see `write_bytes`."""
    write_bytes(path, json_bytes(value))


def json_lines(rows: Iterable[Any]) -> str:
    """Returns the content of a JSONL file that holds a value on each line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def json_bytes(value: Any) -> bytes:
    """Returns the content of a JSON file that holds a value, indented by 2 spaces."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def refuse_occupied(path: Location) -> None:
    """Refuses a path at which a new directory cannot be made.

    Raises:
        InputError: the path is a file, or a directory that is not empty.
    """
    if is_url(path):
        if exists(path):
            raise InputError(f"{path}: exists; choose another path")
        return
    local = Path(path)
    if local.is_symlink() or (local.exists() and not local.is_dir()):
        raise InputError(f"{path}: exists but is not a directory; choose another path")
    if local.is_dir() and any(local.iterdir()):
        raise InputError(f"{path}: exists and is not empty; remove it or choose another path")


@contextlib.contextmanager
def new_directory(
    path: Location, last: str = "", shared: bool = False, resumes: bool = False
) -> Iterator[Path]:
    """Yields an empty local directory, which becomes `path` if the block ends without an exception.

    Otherwise it is deleted, and `path` and the directories above it are as they were. On a disk its files are synced,
    and it is renamed into place. At a URL its files are uploaded one by one, while no other process makes it.

    Args:
        path: the directory to make.
        last: the file that is uploaded after all others, so that its presence says that the rest is there.
        shared: whether other processes may make the same local directory meanwhile; the first to end the block wins.
        resumes: whether a local directory begins with the files that an earlier block left when it failed or was
            killed, and is kept for the next one if this block fails.

    Raises:
        InputError: `path` is a file or a directory that is not empty, or a URL that another process is making; a
            directory is no error where it is `shared`.
        WorkError: something in the block, or the renaming or uploading, failed (disk full, no permission).
    """
    local, above = Path(path).resolve(), list[Path]()
    try:
        refuse_occupied(path)
    except InputError:
        if not (shared and local.is_dir()):
            raise
    if is_url(path):
        temporary = Path(tempfile.mkdtemp())
    else:
        temporary = local.with_name(f".{local.name}.partial") if resumes else _temporary(local)
        above = [directory for directory in local.parents if not directory.exists()]
    try:
        with writing(path), _held(path):
            temporary.mkdir(parents=True, exist_ok=True)
            yield temporary
            if is_url(path):
                _upload(temporary, os.fspath(path).rstrip("/"), last)
            else:
                _place(temporary, local, shared)
    except WorkError as error:
        raise WorkError(str(error).replace(str(temporary), str(path))) from error
    finally:
        if not resumes:
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # a directory that holds anything stays
            for directory in above:
                directory.rmdir()


def _held(path: Location) -> contextlib.AbstractContextManager[object]:
    from msm_jax.foundation import lock  # which imports this module

    return lock.hold(path) if is_url(path) else contextlib.nullcontext()


def remove_abandoned(directory: Path, seconds: float = 3600) -> None:
    """Deletes what killed processes left below a local directory: temporary files that have not changed for so long."""
    before = time.time() - seconds
    for above, directories, files in os.walk(directory):  # which goes on where another process deletes a directory
        for path in (Path(above, name) for name in (*directories, *files) if _TEMPORARY.fullmatch(name)):
            with contextlib.suppress(OSError):  # its process has put it in its place meanwhile
                if path.is_dir() and all(each.stat().st_mtime < before for each in (path, *path.rglob("*"))):
                    shutil.rmtree(path)
                elif path.is_file() and path.stat().st_mtime < before:
                    path.unlink()


def sync_directory(directory: Path) -> None:
    """Makes the names in a local directory survive a loss of power."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _place(directory: Path, path: Path, shared: bool) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    try:
        directory.rename(path)
    except OSError:
        if not (shared and path.is_dir()):
            raise
    sync_directory(path.parent)


def _upload(directory: Path, url: str, last: str) -> None:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file == directory / last):
        upload(file, f"{url}/{file.relative_to(directory).as_posix()}")


def _temporary(path: Path) -> Path:
    # Processes on several hosts, which may have the same number, may write to one file system.
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def writing(path: Location) -> Iterator[None]:
    """Turns what keeps a file from being written into one line.

    Raises:
        WorkError: the file cannot be written (disk full, no permission).
    """
    try:
        yield
    except retrying.failures() as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise WorkError(f"{path} cannot be written: {problem}; free space or choose another path") from error
