"""The train step and the evaluation step: pure functions of state, batch and frozen weights, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel import sharding
from msm_jax.training import state
from msm_jax.training.objective import NEXT_TOKEN, Batch, Objective, Sums
from msm_jax.training.state import Frozen, TrainState

Metrics = dict[str, jax.Array]


def gradients(
    params: transformer.Params | lora.Weights,
    model: ModelConfig,
    batch: Batch,
    micro_batches: int,
    adapter: LoraConfig | None = None,
    frozen: Frozen | None = None,
    objective: Objective = NEXT_TOKEN,
) -> tuple[jax.Array, Sums, transformer.Params]:
    """Returns loss sum, further sums and the gradient of the loss *sum* by `params`, accumulated over micro-batches.

    Sums and counts are kept apart, so that the result does not depend on how the rows are cut.
    """
    grad = jax.value_and_grad(objective.loss_sum, has_aux=True)
    if micro_batches == 1:
        (total, sums), grads = grad(params, model, batch, adapter, frozen)
        return total, sums, grads
    # Row i goes to micro-batch i mod M: with rows sharded in blocks over devices, every slice keeps its share of each.
    cut = {k: jnp.moveaxis(v.reshape(-1, micro_batches, *v.shape[1:]), 1, 0) for k, v in batch.items()}

    def body(carry: Any, rows: Batch) -> tuple[Any, None]:
        (total, sums), grads = grad(params, model, rows, adapter, frozen)
        return jax.tree.map(jnp.add, carry, (total, sums, grads)), None

    sums = {
        **{name: jnp.zeros((), jnp.int32) for name in objective.counts},
        **{name: jnp.zeros((), jnp.float32) for name in objective.means},
    }
    zero = (jnp.zeros((), jnp.float32), sums, jax.tree.map(jnp.zeros_like, params))
    (total, sums, grads), _ = jax.lax.scan(body, zero, cut)
    return total, sums, grads


def make_train_step(
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    micro_batches: int = 1,
    adapter: LoraConfig | None = None,
    frozen: Frozen | None = None,
    objective: Objective = NEXT_TOKEN,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns a jitted optimizer step (state, batch, frozen) -> (state, metrics); the state is donated.

    The batch holds the arrays of `objective.fields`; rows must be a multiple of `micro_batches` times the mesh's
    data × fsdp devices. Metrics are float32/int32 scalars on device: loss (mean nats per `objective.unit`), the
    objective's counts and means, tokens (padding excluded), grad_norm (before clipping), learning_rate.

    With `adapter`, the state is that of the adapter, and the third argument of the step holds the frozen weights, whose
    shapes and shardings are given by `frozen`; without `adapter` it is None. Dropout depends on the seed in the frozen
    weights, the step and the row alone.
    """

    def train_step(old: TrainState, batch: Batch, base: Frozen | None) -> tuple[TrainState, Metrics]:
        rows = dict(batch)
        if base is not None and adapter is not None and adapter.dropout:
            rows["dropout_keys"] = lora.row_keys(base.seed, old.step, batch["tokens"].shape[0])
        total, sums, grads = gradients(old.params, model, rows, micro_batches, adapter, base, objective)
        # A batch without loss tokens has zero gradient; the maximum keeps it from becoming NaN.
        scale = 1.0 / jnp.maximum(sums[objective.unit], 1).astype(jnp.float32)
        grads = jax.tree.map(lambda g: g * scale, grads)
        updates, opt_state = optimizer.update(grads, old.opt_state, old.params)
        params = optax.apply_updates(old.params, updates)
        metrics = {
            "loss": total * scale,
            **{name: sums[name] for name in objective.counts},
            **objective.averages(sums),
            "tokens": jnp.sum(batch["segment_ids"] != 0, dtype=jnp.int32),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(schedule(old.step), jnp.float32),
        }
        return TrainState(params, opt_state, old.step + 1), metrics

    where = state.shardings(model, optimizer, mesh, adapter)
    return jax.jit(
        train_step,
        in_shardings=(where, sharding.batch_sharding(mesh), _shardings_of(frozen)),
        out_shardings=(where, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def make_eval_step(
    model: ModelConfig,
    mesh: Mesh,
    adapter: LoraConfig | None = None,
    frozen: Frozen | None = None,
    objective: Objective = NEXT_TOKEN,
) -> Callable[..., tuple[jax.Array, Sums]]:
    """Returns a jitted (params, batch, frozen) -> (loss sum, further sums), which donates nothing."""
    params = transformer.abstract_params(model) if adapter is None else lora.abstract_weights(adapter, model)
    axes = transformer.logical_axes(params) if adapter is None else lora.logical_axes(params)
    where = sharding.tree_shardings(mesh, axes, params)
    return jax.jit(
        lambda params, batch, base: objective.loss_sum(params, model, batch, adapter, base),
        in_shardings=(where, sharding.batch_sharding(mesh), _shardings_of(frozen)),
        out_shardings=sharding.replicated(mesh),
    )


def _shardings_of(frozen: Frozen | None) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, frozen)
