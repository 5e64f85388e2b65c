"""The train step and the evaluation step: pure functions of (state, batch), compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import sharding
from msm_jax.training import loss, state
from msm_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def loss_sum(params: transformer.Params, model: ModelConfig, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Summed loss in nats and number of loss tokens of one batch."""
    hidden_BTD, _ = transformer.apply(
        params, model, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    return loss.cross_entropy(params, model, hidden_BTD, batch["targets"], batch["loss_mask"])


def gradients(
    params: transformer.Params, model: ModelConfig, batch: Batch, micro_batches: int
) -> tuple[jax.Array, jax.Array, transformer.Params]:
    """Loss sum, loss tokens, and the gradient of the loss *sum*, accumulated over equal slices of the batch.

    Sums and counts are kept apart, so that the result does not depend on how the rows are cut.
    """
    grad = jax.value_and_grad(loss_sum, has_aux=True)
    if micro_batches == 1:
        (total, count), grads = grad(params, model, batch)
        return total, count, grads
    # Row i goes to micro-batch i mod M: with rows sharded in blocks over devices, every slice keeps its share of each.
    cut = {k: jnp.moveaxis(v.reshape(-1, micro_batches, *v.shape[1:]), 1, 0) for k, v in batch.items()}

    def body(carry: Any, rows: Batch) -> tuple[Any, None]:
        (total, count), grads = grad(params, model, rows)
        return jax.tree.map(jnp.add, carry, (total, count, grads)), None

    zero = (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))
    (total, count, grads), _ = jax.lax.scan(body, zero, cut)
    return total, count, grads


def make_train_step(
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    micro_batches: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Compiles one optimizer step; the state is donated.

    The batch holds int32 `tokens`, `targets`, `positions`, `segment_ids` and bool `loss_mask`, all [rows, seq_len];
    rows must be a multiple of `micro_batches` times the mesh's data × fsdp devices. Metrics are float32/int32
    scalars on device: loss (mean nats per loss token), loss_tokens, tokens (padding excluded), grad_norm (before
    clipping), learning_rate.
    """

    def train_step(old: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        total, count, grads = gradients(old.params, model, batch, micro_batches)
        # A batch without loss tokens has zero gradient; the maximum keeps it from becoming NaN.
        scale = 1.0 / jnp.maximum(count, 1).astype(jnp.float32)
        grads = jax.tree.map(lambda g: g * scale, grads)
        updates, opt_state = optimizer.update(grads, old.opt_state, old.params)
        params = optax.apply_updates(old.params, updates)
        metrics = {
            "loss": total * scale,
            "loss_tokens": count,
            "tokens": jnp.sum(batch["segment_ids"] != 0, dtype=jnp.int32),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(schedule(old.step), jnp.float32),
        }
        return TrainState(params, opt_state, old.step + 1), metrics

    where = state.shardings(model, optimizer, mesh)
    return jax.jit(
        train_step,
        in_shardings=(where, sharding.batch_sharding(mesh)),
        out_shardings=(where, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def make_eval_step(
    model: ModelConfig, mesh: Mesh
) -> Callable[[transformer.Params, Batch], tuple[jax.Array, jax.Array]]:
    """Compiles (params, batch) to (loss sum, loss tokens), nothing donated."""
    params = transformer.abstract_params(model)
    where = sharding.tree_shardings(mesh, transformer.logical_axes(params), params)
    return jax.jit(
        lambda params, batch: loss_sum(params, model, batch),
        in_shardings=(where, sharding.batch_sharding(mesh)),
        out_shardings=sharding.replicated(mesh),
    )
