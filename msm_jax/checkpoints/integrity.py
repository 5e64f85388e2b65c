"""The manifest of a checkpoint, `SHA256SUMS`: the SHA-256 of each of its files, as `sha256sum -c` reads it.

It is written when all files are, before the checkpoint gets its name. Checkpoints of before 2026-11 have none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msm_jax.foundation import hashing, storage

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)\n")


def seal(directory: Path) -> None:
    """Syncs the files of a checkpoint to the disk and writes its manifest, the last of them.

    Raises:
        OSError, WorkError: a file cannot be read, synced or written.
    """
    names = _names(directory)
    # TensorStore has synced those that it writes.
    for name in (name for name in names if "/d/" not in name and not name.endswith(".ocdbt")):
        with (directory / name).open("rb") as file:
            os.fsync(file.fileno())
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4)) as pool:  # training goes on meanwhile
        sums = pool.map(lambda name: hashing.file_sha256(directory / name), names)
        text = "".join(f"{sha256}  {name}\n" for name, sha256 in zip(names, sums, strict=True))
    storage.write_text(directory / NAME, text)
    for each in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        storage.sync_directory(each)


def fault(
    directory: Path, entries: Collection[str] | None = None, part: int = 0, parts: int = 1, is_copy: bool = False
) -> str:
    """Reads files of a sealed checkpoint; returns what is wrong with the first that is not as it was, "" for nothing.

    A version of a file is read once in a process.

    Args:
        directory: the checkpoint.
        entries: the subdirectories to read, beside the files at the top; None for all.
        part: which part of the files to read, from 0 on, so that hosts share the work.
        parts: the number of such parts.
        is_copy: whether files of other entries may be missing, since only what is read is copied.

    Raises:
        InputError: a file cannot be read.
        WorkError: the storage does not answer.
    """
    text = storage.read_bytes(directory / NAME).decode(errors="replace")
    listed = {name: sha256 for sha256, name in _LINE.findall(text)}
    if "".join(f"{sha256}  {name}\n" for name, sha256 in listed.items()) != text:
        return f"{NAME} is not as it was written"
    present = _names(directory)
    for name in sorted(listed.keys() ^ set(present)):
        if not is_copy or _is_in(name, entries):
            return f"{name} is missing" if name in listed else f"{NAME} lacks {name}"
    read = [name for name in present if _is_in(name, entries)]
    mine = read[part::parts]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = pool.map(lambda name: hashing.file_sha256(directory / name), mine)
        wrong = [name for name, sha256 in zip(mine, sums, strict=True) if sha256 != listed[name]]
    return f"{wrong[0]} is not as it was written" if wrong else ""


def listed(directory: Path, entries: Collection[str] | None = None) -> list[str]:
    """Returns the files that the manifest of a checkpoint names, of some entries or all; none without a manifest."""
    path = directory / NAME
    names = [name for _, name in _LINE.findall(path.read_text(errors="replace"))] if path.is_file() else []
    return [name for name in names if _is_in(name, entries)]


def _is_in(name: str, entries: Collection[str] | None) -> bool:
    """Returns whether a file belongs to some entries, None for all, as those at the top do."""
    return entries is None or "/" not in name or name.partition("/")[0] in entries


def _names(directory: Path) -> list[str]:
    """Returns the files of a checkpoint, without its manifest and hidden ones, which network file systems may add."""
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in files if name != NAME and not name.rpartition("/")[2].startswith("."))
