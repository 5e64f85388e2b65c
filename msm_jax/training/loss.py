"""Next-token cross-entropy, as a sum and a count, so that it does not depend on how a batch is cut.

If the logits are too many to be held at once, they are computed block by block (`loss_blocks`), with exact gradients.
`token_losses` gives the loss of each token instead, for objectives of whole sequences.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msm_jax.models import parameters, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import mesh, sharding
from msm_jax.training import loss_blocks

# The most logits (rows × tokens × vocabulary) that are computed at once: 64 MiB in float32.
MAX_LOGITS = 2**24
# The largest output matrix whose whole gradient is held beside them: 256 MiB in float32.
MAX_WEIGHTS = 2**26
# The same for a GPU, whose products need large blocks: 1 and 2 GiB.
GPU_LOGITS, GPU_WEIGHTS = 2**28, 2**29


def cross_entropy(
    params: transformer.Params,
    config: ModelConfig,
    hidden_BTD: Float[Array, "B T D"],
    targets_BT: Int[Array, "B T"],
    loss_mask_BT: Bool[Array, "B T"],
    z_loss: float = 0.0,
    max_logits: int | None = None,
    max_weights: int | None = None,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Returns the summed negative log-likelihood (nats) of the targets in the mask, and their number.

    Args:
        params: the model's parameters, of which only the output matrix is read.
        config: the shape of the model.
        hidden_BTD: final hidden states.
        targets_BT: target ids.
        loss_mask_BT: which targets count.
        z_loss: weight of log² Z of each target in the *gradient*, which keeps logits from drifting (PaLM, arXiv
            2204.02311, section 5). The value stays the likelihood, so that losses can be compared.
        max_logits: the most logits that may exist at once on a device; None for the value of the kind of device.
        max_weights: likewise; see `MAX_WEIGHTS`.
    """
    max_logits = _limits()[0] if max_logits is None else max_logits
    max_weights = _limits()[1] if max_weights is None else max_weights
    batch, length, size = hidden_BTD.shape
    tokens = batch * length
    count = jnp.sum(loss_mask_BT, dtype=jnp.int32)
    name = _output(config)
    if tokens * config.vocab_size > max_logits:
        small = size * config.vocab_size <= max_weights
        blocked = loss_blocks.by_tokens if small else loss_blocks.by_vocabulary
        blocks = loss_blocks.Blocks(parameters.find(name).full_axes, z_loss, max_logits)
        return blocked(blocks, hidden_BTD, params[name], targets_BT, loss_mask_BT), count
    log_z_N, correct_N, mask_N = _at_once(params, config, hidden_BTD, targets_BT, loss_mask_BT)
    loss = jnp.sum(log_z_N - correct_N, where=mask_N)
    if z_loss:
        extra = z_loss * jnp.sum(log_z_N * log_z_N, where=mask_N)
        loss = loss + (extra - jax.lax.stop_gradient(extra))
    return loss, count


def token_losses(
    params: transformer.Params,
    config: ModelConfig,
    hidden_BTD: Float[Array, "B T D"],
    targets_BT: Int[Array, "B T"],
    loss_mask_BT: Bool[Array, "B T"],
    max_logits: int | None = None,
) -> Float[Array, "B T"]:
    """Returns the negative log-likelihood (nats) of each target, 0 outside the mask; arguments as `cross_entropy`."""
    max_logits = _limits()[0] if max_logits is None else max_logits
    name = _output(config)
    if targets_BT.size * config.vocab_size > max_logits:
        if mesh.platform() == "cpu":
            # Products of bfloat16 are those of float32 copies there. Half as large blocks, with their copies, take no
            # more memory than the blocks of tokens in `cross_entropy`.
            max_logits //= 2
        blocks = loss_blocks.Blocks(parameters.find(name).full_axes, 0.0, max_logits)
        return loss_blocks.each_by_vocabulary(blocks, hidden_BTD, params[name], targets_BT, loss_mask_BT)
    log_z_N, correct_N, mask_N = _at_once(params, config, hidden_BTD, targets_BT, loss_mask_BT)
    return jnp.where(mask_N, log_z_N - correct_N, 0).reshape(targets_BT.shape)


def _limits() -> tuple[int, int]:
    """Returns `max_logits` and `max_weights` for the kind of device."""
    return (GPU_LOGITS, GPU_WEIGHTS) if mesh.platform() == "gpu" else (MAX_LOGITS, MAX_WEIGHTS)


def _output(config: ModelConfig) -> str:
    return "embedding" if config.tie_embeddings else "output"


def _at_once(
    params: transformer.Params, config: ModelConfig, hidden_BTD: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array
) -> tuple[Float[Array, " N"], Float[Array, " N"], Bool[Array, " N"]]:
    """Returns log Z of each token, the logit of its target, and the mask, from logits that are all held at once."""
    name = _output(config)
    output_DV = sharding.use(params[name].astype(hidden_BTD.dtype), *parameters.find(name).full_axes)
    if config.tie_embeddings:
        # Transposed to [D, V], as without tying: XLA on the CPU takes half as long for a gradient of this form, and
        # the barrier keeps it from undoing that. Elsewhere the cast to the compute dtype makes a copy anyway.
        output_DV = jax.lax.optimization_barrier(output_DV.T)
        config = dataclasses.replace(config, tie_embeddings=False)
    hidden_ND = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    targets_N, mask_N = targets_BT.reshape(-1), mask_BT.reshape(-1)
    logits_NV = transformer.logits({"output": output_DV}, config, hidden_ND)
    log_z_N = jax.nn.logsumexp(logits_NV, axis=-1)
    return log_z_N, jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0], mask_N
