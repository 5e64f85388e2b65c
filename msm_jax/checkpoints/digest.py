"""A digest of each tensor of a model, to tell one base from another.

It is taken of the values rounded to bfloat16, on the devices where they lie, as a sum of 32-bit hashes of (place,
value): so it does not depend on mesh, storage or the dtype in which a checkpoint is loaded, and costs one pass over
the weights. It catches mistakes; it is no defence against someone who means to deceive.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def digest(params: Any) -> dict[str, str]:
    """The digest of each tensor, 16 hex digits, by its dotted name ("layers.query")."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [".".join(str(key.key) for key in path) for path, _ in leaves]
    sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
    return {name: f"{int(high):08x}{int(low):08x}" for name, (high, low) in zip(names, sums, strict=True)}


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    return [(_sum(leaf, 0x2545F491), _sum(leaf, 0x9E3779B9)) for leaf in leaves]


def _sum(leaf: jax.Array, salt: int) -> jax.Array:
    """The sum over all elements, modulo 2**32, of a hash of place and value (murmur3's finalizer)."""
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    mixed = (place * jnp.uint32(salt)) ^ (bits * jnp.uint32(0x85EBCA6B) + jnp.uint32(salt))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
