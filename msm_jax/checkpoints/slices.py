"""Writes and reads our checkpoints slice by slice, for models that do not fit into the host's memory.

Orbax saves only whole arrays. A checkpoint is therefore first saved with a placeholder for each parameter. Then the
arrays replace the placeholders in Orbax's own storage format (Zarr 3 in OCDBT, through TensorStore), so that
`store.load` reads the result like any other checkpoint.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorstore

from msm_jax.checkpoints import integrity, store
from msm_jax.errors import InputError, WorkError

Index = tuple[slice, ...]

# The size of the slices that are read from a source and written by TensorStore, a few at a time.
SLICE_BYTES = 32 * 2**20
_IN_FLIGHT_BYTES = 64 * 2**20
# Orbax's settings for OCDBT: one manifest file, and B-tree nodes that hold all keys of a checkpoint together.
_OCDBT = {
    "config": {"max_inline_value_bytes": 1024, "max_decoded_node_bytes": 100_000_000, "manifest_kind": "single"},
    "assume_config": True,
}
_FAILURES = (OSError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Leaf:
    """A parameter to be written: its path in the tree, its shape and dtype, and the shape of its stored pieces."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    piece: tuple[int, ...]


def write(
    path: Path,
    leaves: Sequence[Leaf],
    blocks: Iterable[tuple[Leaf, Index, np.ndarray]],
    info: Mapping[str, Any],
    assets: Mapping[str, bytes],
) -> None:
    """Writes a checkpoint of parameters, at step 0, block by block.

    Args:
        path: the checkpoint's directory, which must not exist. After a failure it is not a valid checkpoint, so use a
            temporary name.
        leaves: all parameters.
        blocks: (leaf, index, content), which together contain each element of each leaf once. Blocks of whole pieces
            are the fastest.
        info: the info that `store.read_info` will return.
        assets: the assets that `store.read_assets` will return.

    Raises:
        WorkError: the disk is full, or writing fails for another reason.
    """
    tree: dict[str, Any] = {}
    for leaf in leaves:
        at = tree
        for name in leaf.path[:-1]:
            at = at.setdefault(name, {})
        at[leaf.path[-1]] = np.zeros(1, leaf.dtype)
    store.save(path, {"params": tree, "step": jnp.int32(0)}, info, assets)
    entry = path / "params"
    try:
        for placeholder in (*entry.glob("ocdbt.process_*"), entry / "d"):
            shutil.rmtree(placeholder)
        (entry / "manifest.ocdbt").unlink()
        _fill(entry, leaves, blocks)
        integrity.seal(path)
    except _FAILURES as error:
        if isinstance(error, InputError):
            raise
        raise WorkError(f"writing {path} failed: {store.reason(error)}") from error


def _fill(entry: Path, leaves: Sequence[Leaf], blocks: Iterable[tuple[Leaf, Index, np.ndarray]]) -> None:
    arrays = {}
    for leaf in leaves:
        spec = {
            "driver": "zarr3",
            "kvstore": {**_kvstore(entry, leaf.path), **_OCDBT},
            "dtype": leaf.dtype.name,
            "store_data_equal_to_fill_value": True,
            "metadata": {
                "shape": leaf.shape,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": leaf.piece}},
                # Weights hardly compress.
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            },
        }
        arrays[leaf.path] = tensorstore.open(tensorstore.Spec(spec), create=True).result()
    writes: list[Any] = []
    try:
        size = 0
        for leaf, index, block in blocks:
            writes.append(arrays[leaf.path][index].write(block))
            size += block.nbytes
            if size >= _IN_FLIGHT_BYTES:
                _finish(writes)
                size = 0
        _finish(writes)
    finally:
        # After a failure, wait for the other writes: they must not add files while the caller deletes the directory.
        for write in writes:
            write.exception()


def _finish(writes: list[Any]) -> None:
    for write in writes:
        write.result()
    writes.clear()


class Reader:
    """Reads blocks of the parameters of a checkpoint.

    Attributes:
        leaves: shape and dtype of each parameter, by its path in the tree.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens a checkpoint, or the newest one of a run directory.

        Raises:
            InputError: there is no checkpoint at `path`, or it is damaged.
        """
        self._path = store.resolve(path)
        store.check(self._path, ["params"])
        self.leaves = store.shapes(self._path, "params")
        self._arrays: dict[tuple[str, ...], Any] = {}

    def read(self, leaf: tuple[str, ...], index: Index) -> np.ndarray:
        """Returns a block of a parameter.

        Raises:
            InputError: the checkpoint is damaged.
        """
        try:
            if leaf not in self._arrays:
                spec = {"driver": "zarr3", "kvstore": _kvstore(self._path / "params", leaf)}
                self._arrays[leaf] = tensorstore.open(tensorstore.Spec(spec), open=True, read=True).result()
            return self._arrays[leaf][index].read().result()
        except _FAILURES as error:
            raise InputError(
                f"{self._path}: parameter {'.'.join(leaf)} is damaged ({store.reason(error)}); use another checkpoint"
            ) from error


def _kvstore(entry: Path, leaf: tuple[str, ...]) -> dict[str, Any]:
    base = {"driver": "file", "path": f"{entry.resolve()}/"}
    return {"driver": "ocdbt", "base": base, "path": f"{'.'.join(leaf)}/"}


def pieces(shape: tuple[int, ...], dtype: np.dtype, split: int, parts: int) -> tuple[int, ...]:
    """Returns the shape of the stored pieces: axis `split` has up to `parts` of them, none smaller than 2 MiB."""
    nbytes = math.prod(shape) * dtype.itemsize
    parts = max(1, min(parts, nbytes // 2**21))
    return tuple(-(-length // parts) if axis == split else length for axis, length in enumerate(shape))
