"""What a training step reads and writes: parameters, optimizer state and the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import sharding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """`step` counts finished optimizer steps (int32 scalar)."""

    params: transformer.Params
    opt_state: Any
    step: jax.Array


def _fresh(model: ModelConfig, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    params = transformer.init_params(model, key)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def shardings(model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shardings of a state: optimizer moments like their parameters, counters replicated."""
    shapes = jax.eval_shape(lambda key: _fresh(model, optimizer, key), jax.random.key(0))
    params = sharding.tree_shardings(mesh, transformer.logical_axes(shapes.params), shapes.params)
    opt_state = optax.tree.map_params(
        optimizer, lambda _, where: where, shapes.opt_state, params,
        transform_non_params=lambda _: sharding.replicated(mesh),
    )
    return TrainState(params, opt_state, sharding.replicated(mesh))  # type: ignore[arg-type]


def abstract(model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state as ShapeDtypeStructs with shardings: the target of a restore."""
    shapes = jax.eval_shape(lambda key: _fresh(model, optimizer, key), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes, shardings(model, optimizer, mesh),
    )


def create(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, key: jax.Array
) -> TrainState:
    """A fresh state, each device making its own shard."""
    init = jax.jit(lambda k: _fresh(model, optimizer, k), out_shardings=shardings(model, optimizer, mesh))
    with jax.set_mesh(mesh):
        return init(key)


def from_params(
    params: transformer.Params, model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """A state at step 0 with these parameters and a fresh optimizer: how a phase starts from another's weights."""
    build = jax.jit(
        lambda p: TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)),
        out_shardings=shardings(model, optimizer, mesh),
        donate_argnums=0,
    )
    with jax.set_mesh(mesh):
        return build(params)
