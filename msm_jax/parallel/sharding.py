"""From logical axis names to shardings. One table of rules, one helper for activations.

A parameter or activation names its axes by what they mean ("embed", "heads", …); the rules below say which mesh axis
shards each of them. Nothing else in the code base names a mesh axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.errors import InputError
from msm_jax.parallel.mesh import MeshConfig

RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "sequence": None,
    "layers": None,
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "hidden": None,
    "norm": None,
    "rank": None,
}


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else (entry or ())


def spec(axes: tuple[str, ...]) -> PartitionSpec:
    """The PartitionSpec of an array whose dimensions carry the logical names `axes`."""
    return PartitionSpec(*(RULES[name] for name in axes))


def sharding(mesh: Mesh, axes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> NamedSharding:
    """The sharding of one array on `mesh`; with `shape`, checks that the mesh divides it.

    Raises:
        InputError: a dimension is not divisible by the mesh axes that shard it.
    """
    if shape is not None:
        check_divides(axes, shape, mesh.shape)
    return NamedSharding(mesh, spec(axes))


def check_divides(axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mapping[str, int]) -> None:
    """Refuses a mesh (devices by axis) that does not divide an array.

    Raises:
        InputError: a dimension is not divisible by the mesh axes that shard it.
    """
    for name, size, entry in zip(axes, shape, spec(axes), strict=True):
        names = _names(entry)
        ways = math.prod(mesh[mesh_axis] for mesh_axis in names)
        if size % ways:
            raise InputError(
                f"mesh axis {'×'.join(names)} of {ways} does not divide {name} = {size}; use a divisor of {size}"
            )


def tree_shardings(mesh: Mesh, axes_tree: Any, shapes_tree: Any) -> Any:
    """Shardings for a pytree of arrays, from pytrees of logical axes (tuples) and of arrays or shape structs."""
    return jax.tree.map(
        lambda axes, leaf: sharding(mesh, axes, leaf.shape),
        axes_tree,
        shapes_tree,
        is_leaf=lambda x: isinstance(x, tuple) and all(isinstance(name, str) for name in x),
    )


def block(axes: tuple[str, ...], shape: tuple[int, ...], mesh: MeshConfig, at: Mapping[str, int]) -> tuple[slice, ...]:
    """What a device holds of an array, without any device being there.

    Args:
        axes: logical axis names of the array.
        shape: of the whole array; the mesh divides it.
        mesh: devices along each mesh axis.
        at: the device's position along each mesh axis.
    """
    parts = []
    for size, entry in zip(shape, spec(axes), strict=True):
        names = _names(entry)
        ways, number = 1, 0
        for name in names:
            ways, number = ways * getattr(mesh, name), number * getattr(mesh, name) + at[name]
        length = size // ways
        parts.append(slice(number * length, (number + 1) * length))
    return tuple(parts)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes; the other dimensions whole."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device of `mesh`."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Constrain an activation to the sharding of its logical axes; outside `jax.set_mesh` it is left as it is.

    Dimensions that the mesh does not divide (a batch of one while sampling) stay unconstrained.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    entries = []
    for size, entry in zip(x.shape, spec(axes), strict=True):
        ways = math.prod(mesh.shape[mesh_axis] for mesh_axis in _names(entry))
        entries.append(entry if size % ways == 0 else PartitionSpec.UNCONSTRAINED)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def mapped(
    f: Callable[..., jax.Array], in_axes: tuple[tuple[str, ...], ...], out_axes: tuple[str, ...]
) -> Callable[..., jax.Array]:
    """`f` run by each device on its own part of the arrays; outside `jax.set_mesh`, `f` itself.

    Args:
        f: takes arrays and returns one; its parts must not need each other.
        in_axes: the logical axis names of each argument. out_axes: those of the result.
    """

    def run(*arrays: jax.Array) -> jax.Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return f(*arrays)
        # A mesh axis that does not divide one array splits none: heads stay with their keys and values.
        whole = {
            mesh_axis
            for axes, array in zip(in_axes, arrays, strict=True)
            for size, entry in zip(array.shape, spec(axes), strict=True)
            for mesh_axis in _names(entry)
            if size % math.prod(mesh.shape[name] for name in _names(entry))
        }
        specs = [
            PartitionSpec(*(None if whole.intersection(_names(entry)) else entry for entry in spec(axes)))
            for axes in (*in_axes, out_axes)
        ]
        return jax.shard_map(f, in_specs=tuple(specs[:-1]), out_specs=specs[-1], check_vma=False)(*arrays)

    return run
