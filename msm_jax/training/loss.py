"""Next-token cross-entropy, as a sum and a count so that no batching changes it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig

# Above this many logits (rows × tokens × vocabulary) the loss walks through the tokens in blocks and recomputes
# each block's logits in the backward pass, so that at most one block of them exists at a time (64 MiB in float32).
MAX_LOGITS = 2**24


def _block_loss(
    params: transformer.Params,
    config: ModelConfig,
    hidden_ND: Float[Array, "N D"],
    targets_N: Int[Array, " N"],
    mask_N: Bool[Array, " N"],
) -> Float[Array, ""]:
    logits_NV = transformer.logits(params, config, hidden_ND)
    log_z_N = jax.nn.logsumexp(logits_NV, axis=-1)
    correct_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
    return jnp.sum(log_z_N - correct_N, where=mask_N)


def cross_entropy(
    params: transformer.Params,
    config: ModelConfig,
    hidden_BTD: Float[Array, "B T D"],
    targets_BT: Int[Array, "B T"],
    loss_mask_BT: Bool[Array, "B T"],
    max_logits: int = MAX_LOGITS,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Summed negative log-likelihood (nats) over the masked targets, and their count.

    Never holds more than about `max_logits` logits at once; the gradient is exact either way.
    """
    batch, length, size = hidden_BTD.shape
    tokens = batch * length
    count = jnp.sum(loss_mask_BT, dtype=jnp.int32)
    if config.tie_embeddings:
        # As if untied, [D, V]: XLA on the CPU takes half as long for a gradient of this form, and the barrier keeps
        # it from undoing that. Elsewhere the cast to the compute dtype makes a copy anyway.
        output_DV = jax.lax.optimization_barrier(params["embedding"].astype(hidden_BTD.dtype).T)
        params, config = {**params, "output": output_DV}, dataclasses.replace(config, tie_embeddings=False)
    if tokens * config.vocab_size <= max_logits:
        loss = _block_loss(
            params, config, hidden_BTD.reshape(tokens, size), targets_BT.reshape(-1), loss_mask_BT.reshape(-1)
        )
        return loss, count
    # Blocks cut the sequence, never the batch, so that a batch sharded over devices stays where it is.
    blocks = length
    for candidate in range(1, length + 1):
        if length % candidate == 0 and batch * (length // candidate) * config.vocab_size <= max_logits:
            blocks = candidate
            break
    split = lambda x: jnp.moveaxis(x.reshape(batch, blocks, length // blocks, *x.shape[2:]), 1, 0)  # noqa: E731

    @jax.checkpoint
    def body(total: jax.Array, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        hidden, targets, mask = block
        flat = hidden.reshape(-1, size)
        return total + _block_loss(params, config, flat, targets.reshape(-1), mask.reshape(-1)), None

    inputs = (split(hidden_BTD), split(targets_BT), split(loss_mask_BT))
    loss, _ = jax.lax.scan(body, jnp.zeros((), jnp.float32), inputs)
    return loss, count
