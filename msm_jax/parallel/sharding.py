"""Shardings from logical axis names, by one table of rules.

The axes of a parameter or activation have names that say what they mean ("embed", "heads", …). `RULES` says which mesh
axes shard each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.errors import InputError

# The name of a gathered parameter, for remat policies.
WHOLE = "whole_parameter"

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
    "pages": None,
    "adapter": ("tensor", "fsdp"),
}


def mesh_axes(name: str) -> tuple[str, ...]:
    """Returns the mesh axes that shard a logical axis."""
    entry = RULES[name]
    return (entry,) if isinstance(entry, str) else (entry or ())


def ways(name: str, mesh: Mapping[str, int]) -> int:
    """Returns the number of parts into which a mesh (devices by axis) splits a logical axis."""
    return math.prod(mesh[axis] for axis in mesh_axes(name))


def is_axes(value: Any) -> bool:
    """Returns whether a value is a tuple of the logical axis names of one array."""
    return isinstance(value, tuple) and all(isinstance(name, str) for name in value)


def spec(axes: tuple[str, ...]) -> PartitionSpec:
    """Returns the PartitionSpec of an array whose dimensions have the logical names `axes`."""
    return PartitionSpec(*(RULES[name] for name in axes))


def sharding(mesh: Mesh, axes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> NamedSharding:
    """Returns the sharding of one array on `mesh`; with `shape`, checks that the mesh divides it.

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
    for name, size in zip(axes, shape, strict=True):
        cut = ways(name, mesh)
        if size % cut:
            near = " or ".join(map(str, nearest_divisors(size, cut)))
            raise InputError(
                f"mesh axis {'×'.join(mesh_axes(name))} of {cut} does not divide {name} = {size}; "
                f"the nearest that does: {near}"
            )


def nearest_divisors(size: int, wanted: int) -> list[int]:
    """Returns the divisors of `size` next below and next above `wanted`, which does not divide it."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    return [*[n for n in divisors if n < wanted][-1:], *[n for n in divisors if n > wanted][:1]]


def tree_shardings(mesh: Mesh, axes_tree: Any, shapes_tree: Any) -> Any:
    """Returns the shardings of a pytree of arrays, from pytrees of logical axes (tuples) and of arrays or shapes."""
    return jax.tree.map(
        lambda axes, leaf: sharding(mesh, axes, leaf.shape), axes_tree, shapes_tree, is_leaf=is_axes
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the whole array on every device of `mesh`."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Constrains an activation to the sharding of its logical axes; outside `jax.set_mesh`, returns it unchanged.

    Dimensions that the mesh does not divide (a batch of one while sampling) stay unconstrained.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    entries = []
    for name, size in zip(axes, x.shape, strict=True):
        entries.append(RULES[name] if size % ways(name, mesh.shape) == 0 else PartitionSpec.UNCONSTRAINED)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def use(parameter: jax.Array, *axes: str) -> jax.Array:
    """Gathers a parameter, for products with activations, along the mesh axes that also split the batch.

    Its gradient is constrained to the sharding of the stored parameter. A plain constraint would also keep the whole
    gradient on every device. Outside `jax.set_mesh`, the parameter is returned unchanged. The result has the name
    `WHOLE` for remat policies, none of which should save it.
    """
    shared = mesh_axes("batch")
    if not splits(name for name in axes for axis in mesh_axes(name) if axis in shared):
        return parameter
    used = PartitionSpec(*(tuple(a for a in mesh_axes(name) if a not in shared) or None for name in axes))
    return checkpoint_name(_constrain_both(used, spec(axes), parameter), WHOLE)


def splits(names: Iterable[str]) -> bool:
    """Returns whether the current mesh has more than one device along one of these logical axes."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and any(mesh.shape[axis] > 1 for name in names for axis in mesh_axes(name))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _constrain_both(used: PartitionSpec, stored: PartitionSpec, x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, used)


def _constrain_both_forward(used: PartitionSpec, stored: PartitionSpec, x: jax.Array) -> tuple[jax.Array, None]:
    return jax.lax.with_sharding_constraint(x, used), None


def _constrain_both_backward(
    used: PartitionSpec, stored: PartitionSpec, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(cotangent, stored),)


_constrain_both.defvjp(_constrain_both_forward, _constrain_both_backward)
