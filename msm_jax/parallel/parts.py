"""Functions that each device runs on its own part of the arrays, and the collectives between these parts.

Inside `shard_map`, the collectives act along the mesh axes of a logical name. Outside, where arrays are whole, they
return their argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from msm_jax.parallel import sharding


def shard_map(f: Callable[..., Any], in_axes: tuple[tuple[str, ...], ...], out_axes: Any) -> Callable[..., Any]:
    """Returns a function with which each device runs `f` on its parts of the arrays.

    Outside `jax.set_mesh`, and on one device, the function calls `f` on the whole arrays.

    Args:
        f: takes arrays and returns arrays.
        in_axes: the logical axis names of each argument.
        out_axes: the logical axis names of the result: a tuple of names, or a tree of such tuples.

    Raises:
        InputError: (when the function is called) the mesh does not divide an argument.
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
    """Returns the mesh axes of a logical name along which the running function has more than one part."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(axis for axis in sharding.mesh_axes(name) if axis in mesh.manual_axes and mesh.shape[axis] > 1)


def psum(x: jax.Array, name: str, besides: str = "") -> jax.Array:
    """Returns the sum of the devices' arrays along the mesh axes of `name` that `besides` does not share."""
    axes = tuple(axis for axis in _along(name) if not besides or axis not in _along(besides))
    return jax.lax.psum(x, axes) if axes else x


def pmax(x: jax.Array, name: str) -> jax.Array:
    """Returns the elementwise maximum of the devices' arrays along `name`."""
    return jax.lax.pmax(x, _along(name)) if _along(name) else x


def axis_index(name: str) -> jax.Array | int:
    """Returns the index of this device's part along `name`."""
    return jax.lax.axis_index(_along(name)) if _along(name) else 0


def all_gather(x: jax.Array, name: str) -> jax.Array:
    """Concatenates the devices' arrays along `name` on their first dimension."""
    return jax.lax.all_gather(x, _along(name), axis=0, tiled=True) if _along(name) else x


def all_to_all(x: jax.Array, name: str, split_axis: int, concat_axis: int) -> jax.Array:
    """Sends each device along `name` one piece of `split_axis`, and concatenates the received ones on `concat_axis`."""
    return jax.lax.all_to_all(x, _along(name), split_axis, concat_axis, tiled=True) if _along(name) else x


def all_gather_parameter(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Gathers a parameter, whose dimensions have the logical names `axes`, along the mesh axes that split the batch."""
    for dimension, name in enumerate(axes):
        for axis in _along(name):
            if axis in sharding.mesh_axes("batch"):
                x = jax.lax.all_gather(x, axis, axis=dimension, tiled=True)
    return x


def psum_scatter_gradient(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Sums the gradient of a gathered parameter over the batch; each device keeps its part of the sum."""
    unsummed = set(_along("batch"))
    for dimension, name in enumerate(axes):
        for axis in _along(name):
            if axis in unsummed:
                x = jax.lax.psum_scatter(x, axis, scatter_dimension=dimension, tiled=True)
                unsummed.remove(axis)
    return jax.lax.psum(x, tuple(sorted(unsummed))) if unsummed else x
