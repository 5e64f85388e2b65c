"""Nodes whose result is a directory of files: where it lies, how it is filled, and when it is complete."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msm_jax.experiments.nodes.interface import DONE, NODE, Address
from msm_jax.foundation import hashing, storage


def place(store: Path, room: str, name: str, node_id: str, payload: Mapping[str, Any]) -> Address:
    """Returns the address STORE/ROOM/NAME-HASH12, or that of a result with the same hash under another name."""
    digest = hashing.digest(payload)[:12]
    path = store / room / f"{name}-{digest}"
    if not path.exists():
        path = next((store / room).glob(f"*-{digest}"), path)
    return Address(node_id, payload, path)


def is_done(address: Address) -> bool:
    """Returns whether a directory still has the files, with the same content, that it had when it was completed."""
    done = storage.find_json(address.path / DONE)
    if done is None or done["hash"] != address.hash:
        return False
    return done["files"] == hashing.tree_sha256(address.path, leave_out=(DONE, NODE))


def build(address: Address, fill: Callable[[Path], object], keeps_partial: bool = False) -> None:
    """Fills a directory under a temporary name, describes it, and renames it into place.

    Args:
        address: of the result.
        fill: writes the files into the directory that it is given.
        keeps_partial: whether `fill` continues from the files that an interrupted call has left, for example replies
            that were paid for; otherwise it starts with an empty directory.
    """
    start = time.monotonic()
    # A process that was killed may have left its directory, and a damaged result is made again.
    for stale in (address.path, *address.path.parent.glob(f".{address.path.name}.*.tmp")):
        if stale.exists():
            shutil.rmtree(stale)
    with storage.new_directory(address.path, resumes=keeps_partial) as directory:
        fill(directory)
        files = hashing.tree_sha256(directory)
        storage.write_json(directory / NODE, address.description())
        done = {"hash": address.hash, "files": files, "seconds": time.monotonic() - start}
        storage.write_json(directory / DONE, done)
