"""The state that a training step updates, and the frozen weights that it only reads.

With an adapter, the parameters of a state are the adapter's weights; the base and the adapters below it are `Frozen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from msm_jax.checkpoints import adapters
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.parallel import sharding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Parameters, optimizer state, and the number of finished optimizer steps (int32 scalar)."""

    params: transformer.Params
    opt_state: Any
    step: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    """What a step with an adapter only reads: the parameters of the base, the frozen adapters beside it, bottom first,
    and the seed of dropout (uint32 scalar)."""

    params: transformer.Params
    below: tuple[Adapter, ...]
    seed: jax.Array


def _fresh(
    model: ModelConfig, optimizer: optax.GradientTransformation, key: jax.Array, adapter: LoraConfig | None
) -> TrainState:
    params = transformer.init_params(model, key) if adapter is None else lora.init_weights(adapter, model, key)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def shardings(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, adapter: LoraConfig | None = None
) -> TrainState:
    """Returns the shardings of a state: optimizer moments like their parameters, counters replicated."""
    shapes = jax.eval_shape(lambda key: _fresh(model, optimizer, key, adapter), jax.random.key(0))
    axes = transformer.logical_axes(shapes.params) if adapter is None else lora.logical_axes(shapes.params)
    params = sharding.tree_shardings(mesh, axes, shapes.params)
    opt_state = optax.tree.map_params(
        optimizer, lambda _, where: where, shapes.opt_state, params,
        transform_non_params=lambda _: sharding.replicated(mesh),
    )
    # A tree of shardings in the place of arrays, as jit takes it.
    return TrainState(params, opt_state, sharding.replicated(mesh))  # type: ignore[arg-type]  # jit takes shardings


def abstract(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, adapter: LoraConfig | None = None
) -> TrainState:
    """Returns the state as ShapeDtypeStructs with shardings, the target of a restore."""
    shapes = jax.eval_shape(lambda key: _fresh(model, optimizer, key, adapter), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes, shardings(model, optimizer, mesh, adapter),
    )


def abstract_frozen(model: ModelConfig, mesh: Mesh, dtype: str, below: Sequence[LoraConfig]) -> Frozen:
    """Returns `Frozen` as ShapeDtypeStructs with shardings, the base's parameters in `dtype`."""
    return Frozen(
        adapters.frozen_target(model, mesh, dtype),
        tuple(Adapter(adapters.weights_target(config, model, mesh), config) for config in below),
        # A shape in the place of an array, as a restore takes it.
        jax.ShapeDtypeStruct((), jnp.uint32, sharding=sharding.replicated(mesh)),  # type: ignore[arg-type]  # a shape
    )


def freeze(params: transformer.Params, below: Sequence[Adapter], seed: int, mesh: Mesh) -> Frozen:
    """Returns `Frozen` of parameters and adapters that are on `mesh`."""
    return Frozen(params, tuple(below), jax.device_put(np.uint32(seed), sharding.replicated(mesh)))


def create(
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: jax.Array,
    adapter: LoraConfig | None = None,
) -> TrainState:
    """Returns a fresh state; each device initialises its own shard."""
    init = jax.jit(
        lambda k: _fresh(model, optimizer, k, adapter), out_shardings=shardings(model, optimizer, mesh, adapter)
    )
    with jax.set_mesh(mesh):
        return init(key)


def from_params(
    params: transformer.Params | lora.Weights,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    adapter: LoraConfig | None = None,
) -> TrainState:
    """Returns a state at step 0 with these parameters (donated) and a fresh optimizer state."""
    build = jax.jit(
        lambda p: TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)),
        out_shardings=shardings(model, optimizer, mesh, adapter),
        donate_argnums=0,
    )
    with jax.set_mesh(mesh):
        return build(params)
