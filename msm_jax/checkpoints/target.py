"""A directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from msm_jax.errors import InputError, WorkError


def check(path: Path) -> None:
    """Refuses a place where something is already.

    Raises:
        InputError: `path` is a file or a directory that is not empty.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: is there and is no directory; name another one")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path}: is there and not empty; remove it or name another directory")


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yields an empty directory beside `path`, which takes that name if the block ends without an exception.

    Otherwise it is deleted, and `path` is as it was.

    Raises:
        InputError: `path` is a file or a directory that is not empty.
        WorkError: something in the block, or the renaming, failed (disk full, no permission).
    """
    check(path)
    temporary = path.resolve().with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
        _sync(path.resolve().parent)
    except OSError as error:
        raise WorkError(f"{path} cannot be written: {error.strerror or error}") from error
    except WorkError as error:
        raise WorkError(str(error).replace(str(temporary), str(path))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Makes the names in a directory survive a loss of power."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
