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
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.parallel import sharding
from msm_jax.training import loss, state
from msm_jax.training.state import Frozen, TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def loss_sum(
    params: transformer.Params | lora.Weights,
    model: ModelConfig,
    batch: Batch,
    adapter: LoraConfig | None = None,
    frozen: Frozen | None = None,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Returns the summed loss in nats and the number of loss tokens of one batch.

    With `adapter`, `params` are its weights and `frozen` holds the base. If the batch has "dropout_keys" (see
    `lora.row_keys`), dropout is applied to the adapter's inputs. `z_loss` as in `loss.cross_entropy`.
    """
    active = None
    if adapter is not None and frozen is not None:
        active = lora.activate((*frozen.below, Adapter(params, adapter)), model, batch.get("dropout_keys"))
        params = frozen.params
    hidden_BTD = transformer.apply(
        params, model, batch["tokens"], batch["positions"], batch["segment_ids"], active
    )
    return loss.cross_entropy(params, model, hidden_BTD, batch["targets"], batch["loss_mask"], z_loss)


def gradients(
    params: transformer.Params | lora.Weights,
    model: ModelConfig,
    batch: Batch,
    micro_batches: int,
    adapter: LoraConfig | None = None,
    frozen: Frozen | None = None,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array, transformer.Params]:
    """Returns loss sum, loss tokens and the gradient of the loss *sum* by `params`, accumulated over micro-batches.

    Sums and counts are kept apart, so that the result does not depend on how the rows are cut.
    """
    grad = jax.value_and_grad(loss_sum, has_aux=True)
    if micro_batches == 1:
        (total, count), grads = grad(params, model, batch, adapter, frozen, z_loss)
        return total, count, grads
    # Row i goes to micro-batch i mod M: with rows sharded in blocks over devices, every slice keeps its share of each.
    cut = {k: jnp.moveaxis(v.reshape(-1, micro_batches, *v.shape[1:]), 1, 0) for k, v in batch.items()}

    def body(carry: Any, rows: Batch) -> tuple[Any, None]:
        (total, count), grads = grad(params, model, rows, adapter, frozen, z_loss)
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
    adapter: LoraConfig | None = None,
    frozen: Frozen | None = None,
    z_loss: float = 0.0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns a jitted optimizer step (state, batch, frozen) -> (state, metrics); the state is donated.

    The batch holds int32 `tokens`, `targets`, `positions`, `segment_ids` and bool `loss_mask`, all [rows, seq_len];
    rows must be a multiple of `micro_batches` times the mesh's data × fsdp devices. Metrics are float32/int32
    scalars on device: loss (mean nats per loss token), loss_tokens, tokens (padding excluded), grad_norm (before
    clipping), learning_rate.

    With `adapter`, the state is that of the adapter, and the third argument of the step holds the frozen weights, whose
    shapes and shardings are given by `frozen`; without `adapter` it is None. Dropout depends on the seed in the frozen
    weights, the step and the row alone. `z_loss` as in `loss.cross_entropy`; the metric leaves it out.
    """

    def train_step(old: TrainState, batch: Batch, base: Frozen | None) -> tuple[TrainState, Metrics]:
        rows = dict(batch)
        if base is not None and adapter is not None and adapter.dropout:
            rows["dropout_keys"] = lora.row_keys(base.seed, old.step, batch["tokens"].shape[0])
        total, count, grads = gradients(old.params, model, rows, micro_batches, adapter, base, z_loss)
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

    where = state.shardings(model, optimizer, mesh, adapter)
    return jax.jit(
        train_step,
        in_shardings=(where, sharding.batch_sharding(mesh), _shardings_of(frozen)),
        out_shardings=(where, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def make_eval_step(
    model: ModelConfig, mesh: Mesh, adapter: LoraConfig | None = None, frozen: Frozen | None = None
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns a jitted (params, batch, frozen) -> (loss sum, loss tokens), which donates nothing."""
    params = transformer.abstract_params(model) if adapter is None else lora.abstract_weights(adapter, model)
    axes = transformer.logical_axes(params) if adapter is None else lora.logical_axes(params)
    where = sharding.tree_shardings(mesh, axes, params)
    return jax.jit(
        lambda params, batch, base: loss_sum(params, model, batch, adapter, base),
        in_shardings=(where, sharding.batch_sharding(mesh), _shardings_of(frozen)),
        out_shardings=sharding.replicated(mesh),
    )


def _shardings_of(frozen: Frozen | None) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, frozen)
