"""Programs that each device runs on its own part of the arrays, and the few collectives between the parts.

Inside `mapped` the collectives act along the mesh axes of a logical name; outside, where arrays are whole, they do
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from msm_jax.parallel import sharding


def mapped(f: Callable[..., Any], in_axes: tuple[tuple[str, ...], ...], out_axes: Any) -> Callable[..., Any]:
    """`f` run by each device on its parts of the arrays; outside `jax.set_mesh`, and on one device, `f` itself.

    Args:
        f: takes arrays, returns arrays.
        in_axes: the logical axis names of each argument.
        out_axes: of the result: a tuple of names, or of such tuples.

    Raises:
        InputError: on the call, the mesh does not divide an argument.
    """

    def run(*arrays: jax.Array) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return f(*arrays)
        for axes, array in zip(in_axes, arrays, strict=True):
            sharding.check_divides(axes, array.shape, mesh.shape)
        out = jax.tree.map(sharding.spec, out_axes, is_leaf=sharding.is_axes)
        specs = tuple(sharding.spec(axes) for axes in in_axes)
        return jax.shard_map(f, in_specs=specs, out_specs=out, check_vma=False)(*arrays)

    return run


def _along(name: str) -> tuple[str, ...]:
    """The mesh axes of a logical name along which there is more than one part here."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(axis for axis in sharding.mesh_axes(name) if axis in mesh.manual_axes and mesh.shape[axis] > 1)


def total(x: jax.Array, name: str) -> jax.Array:
    """The sum of the parts' arrays along `name`."""
    return jax.lax.psum(x, _along(name)) if _along(name) else x


def largest(x: jax.Array, name: str) -> jax.Array:
    """The elementwise maximum of the parts' arrays along `name`."""
    return jax.lax.pmax(x, _along(name)) if _along(name) else x


def index(name: str) -> jax.Array | int:
    """The number of this part along `name`."""
    return jax.lax.axis_index(_along(name)) if _along(name) else 0


def joined(x: jax.Array, name: str) -> jax.Array:
    """The parts' arrays along `name`, one after the other on the first dimension."""
    return jax.lax.all_gather(x, _along(name), axis=0, tiled=True) if _along(name) else x


def swapped(x: jax.Array, name: str, split: int, join: int) -> jax.Array:
    """Cut along one dimension, a piece for each part along `name`; what the parts send this one, joined on another."""
    return jax.lax.all_to_all(x, _along(name), split, join, tiled=True) if _along(name) else x


def gathered(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """A parameter's part, made whole along the mesh axes that it shares with the batch."""
    for dimension, name in enumerate(axes):
        for axis in _along(name):
            if axis in sharding.mesh_axes("batch"):
                x = jax.lax.all_gather(x, axis, axis=dimension, tiled=True)
    return x


def reduced(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The reverse for its gradient: summed over the batch, each device keeping its part."""
    summed = set(_along("batch"))
    for dimension, name in enumerate(axes):
        for axis in _along(name):
            if axis in summed:
                x = jax.lax.psum_scatter(x, axis, scatter_dimension=dimension, tiled=True)
                summed.remove(axis)
    return jax.lax.psum(x, tuple(sorted(summed))) if summed else x


def summed(x: jax.Array, name: str, besides: str) -> jax.Array:
    """The sum of the parts' arrays along the mesh axes of `name` that `besides` does not share."""
    axes = tuple(axis for axis in _along(name) if axis not in _along(besides))
    return jax.lax.psum(x, axes) if axes else x
