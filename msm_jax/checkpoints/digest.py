"""A digest of each tensor of a model, which distinguishes one base from another.

The digest is a sum of 32-bit hashes of (position, value), with the values rounded to bfloat16. It therefore does not
depend on mesh, storage, or the dtype in which a checkpoint is loaded, and it can be computed block by block, in one
pass over the weights on their devices. It detects mistakes, but does not protect against deliberate forgery.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.checkpoints import slices

_SALTS = (0x2545F491, 0x9E3779B9)


def digest(params: Any) -> dict[str, str]:
    """Returns the digest of each tensor, 16 hex digits, by its dotted name ("layers.query")."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [".".join(str(key.key) for key in path) for path, _ in leaves]
    sums = jax.device_get(_sums([leaf for _, leaf in leaves], np.uint32(0)))
    return {name: _hex(each) for name, each in zip(names, sums, strict=True)}


def of_checkpoint(path: Path | str) -> dict[str, str]:
    """Returns the digest of each parameter of a checkpoint; reads block by block.

    Raises:
        InputError: there is no checkpoint with parameters at `path`, or it is damaged.
    """
    reader = slices.Reader(path)
    found = {}
    for leaf, (shape, dtype) in reader.leaves.items():
        total = np.zeros(len(_SALTS), np.uint32)
        for start, index in _blocks(shape, dtype.itemsize):
            (sums,) = jax.device_get(_sums([reader.read(leaf, index)], np.uint32(start)))
            total += np.array(sums, np.uint32)
        found[".".join(leaf)] = _hex(total)
    return found


def _hex(sums: Any) -> str:
    return "".join(f"{int(each):08x}" for each in sums)


def _blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yields blocks of whole rows of the first axis, each after the position of its first element modulo 2**32."""
    row = math.prod(shape[1:])
    step = max(1, slices.SLICE_BYTES // (row * itemsize))
    rest = tuple(slice(0, size) for size in shape[1:])
    for start in range(0, shape[0], step):
        yield start * row % 2**32, (slice(start, min(start + step, shape[0])), *rest)


@jax.jit
def _sums(leaves: list[jax.Array], start: jax.Array) -> list[tuple[jax.Array, ...]]:
    return [tuple(_sum(leaf, start, salt) for salt in _SALTS) for leaf in leaves]


def _sum(leaf: jax.Array, start: jax.Array, salt: int) -> jax.Array:
    """Returns the sum modulo 2**32 over all elements of a hash of position and value (murmur3's finalizer)."""
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    mixed = ((place + start) * jnp.uint32(salt)) ^ (bits * jnp.uint32(0x85EBCA6B) + jnp.uint32(salt))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
