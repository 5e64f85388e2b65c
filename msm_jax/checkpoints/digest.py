"""A digest of each tensor of a model, to tell one base from another.

It is taken of the values rounded to bfloat16, as a sum of 32-bit hashes of (place, value): so it does not depend on
mesh, storage or the dtype in which a checkpoint is loaded, it can be taken block by block, and it costs one pass over
the weights where they lie. It catches mistakes; it is no defence against someone who means to deceive.
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
    """The digest of each tensor, 16 hex digits, by its dotted name ("layers.query")."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [".".join(str(key.key) for key in path) for path, _ in leaves]
    sums = jax.device_get(_sums([leaf for _, leaf in leaves], np.uint32(0)))
    return {name: _hex(each) for name, each in zip(names, sums, strict=True)}


def of_checkpoint(path: Path | str) -> dict[str, str]:
    """The digest of each parameter of a checkpoint, without the whole of it in memory.

    Raises:
        InputError: no checkpoint with parameters there, or it is damaged.
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
    """Blocks of whole rows of the first axis, each with the place of its first element modulo 2**32."""
    row = math.prod(shape[1:])
    step = max(1, slices.SLICE_BYTES // (row * itemsize))
    rest = tuple(slice(0, size) for size in shape[1:])
    for start in range(0, shape[0], step):
        yield start * row % 2**32, (slice(start, min(start + step, shape[0])), *rest)


@jax.jit
def _sums(leaves: list[jax.Array], start: jax.Array) -> list[tuple[jax.Array, ...]]:
    return [tuple(_sum(leaf, start, salt) for salt in _SALTS) for leaf in leaves]


def _sum(leaf: jax.Array, start: jax.Array, salt: int) -> jax.Array:
    """The sum over all elements, modulo 2**32, of a hash of place and value (murmur3's finalizer)."""
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    mixed = ((place + start) * jnp.uint32(salt)) ^ (bits * jnp.uint32(0x85EBCA6B) + jnp.uint32(salt))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
