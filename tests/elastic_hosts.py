"""Continues a tiny phase up to a step on the devices of this process, and tells what it restored, read and saved.

Run as a program, it is one of the processes of a layout: `elastic_hosts.py DEVICES`, with jobs on standard input.
"""

import contextlib
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from parallel_meshes import host

from msm_jax import cli
from msm_jax.errors import Preempted
from msm_jax.foundation import child_process, settings
from msm_jax.parallel import distributed
from msm_jax.training import loop
from msm_jax.training.config import PhaseConfig
from msm_jax.training.stopping import StopRequest


class StopAt(StopRequest):
    """Asks the loop to save and stop after a step, as SIGTERM would, on every host."""

    def __init__(self, step: int) -> None:
        """`step` is the number of finished steps."""
        super().__init__()
        self._step = step

    def reached(self, step: int) -> bool:
        """Returns whether the step is reached."""
        return step >= self._step


def digests(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of the bytes of each array, whatever mesh it is on."""
    leaves = jax.tree_util.tree_flatten_with_path(host(tree))[0]
    return {jax.tree_util.keystr(keys): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for keys, leaf in leaves}


def rows_of(placed: Mapping[str, jax.Array]) -> dict[str, str]:
    """Returns the SHA-256 of each row of a batch that a device of this process holds, by its number in the batch."""
    rows: dict[int, dict[str, bytes]] = {}
    for name, array in placed.items():
        for shard in array.addressable_shards:
            first = shard.index[0].start or 0
            for number, row in enumerate(np.asarray(shard.data), first):
                rows.setdefault(number, {})[name] = row.tobytes()
    hashes = {number: hashlib.sha256(b"".join(by[name] for name in sorted(by))) for number, by in rows.items()}
    return {str(number): found.hexdigest() for number, found in sorted(hashes.items())}


@contextlib.contextmanager
def observed(stop: int, found: dict[str, Any]) -> Iterator[None]:
    """Stops the train loop at a step, and notes beside its work what arrives on the devices."""
    restore, place, tree = loop.origin.restore, loop.placement.place, loop.origin.checkpoint_tree

    def restores(*args: Any) -> Any:
        result = restore(*args)
        found["restored"] = digests(tree(args[0], result[0], result[2]))
        found["step"] = int(result[0].step)
        return result

    def places(*args: Any) -> Any:
        placed = place(*args)
        found["step"] += 1
        found["batches"][str(found["step"])] = rows_of(placed)
        return placed

    def saves(*args: Any) -> Any:
        saved = tree(*args)
        found["saved"] = digests(saved)
        return saved

    found["batches"] = {}
    with (
        mock.patch.object(loop.origin, "restore", restores),
        mock.patch.object(loop.placement, "place", places),
        mock.patch.object(loop.origin, "checkpoint_tree", saves),
        mock.patch.object(loop, "StopRequest", functools.partial(StopAt, stop)),
    ):
        yield


def continued(config: Mapping[str, Any], workdir: str, stop: int) -> dict[str, Any]:
    """Trains a phase in `workdir` up to the step `stop`, from where it is.

    Returns:
      "restored" and "saved", {array: SHA-256} of the state at the beginning and at the end; and "batches", {step: {row:
      SHA-256}} of what the devices of this process read.
    """
    found: dict[str, Any] = {}
    with observed(stop, found), contextlib.suppress(Preempted):
        loop.train(settings.build(PhaseConfig, config), Path(workdir))
    del found["step"]
    return found


def main() -> None:
    """Runs one of the processes of a layout."""
    channel = child_process.reserve_stdout()
    cli.prepare_backend(devices=int(sys.argv[1]), threads=1)
    distributed.start()
    for job in child_process.requests():
        child_process.reply(channel, continued(**job))


if __name__ == "__main__":
    main()
