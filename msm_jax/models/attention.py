"""Masked grouped-query attention: a reference that runs on any device, and the choice of a faster kernel.

For packed rows in training, `visible` chooses among the backends of `models.kernels`. Under any other mask, as in
sampling, the reference runs.
"""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msm_jax.models import kernels
from msm_jax.models.config import ModelConfig
from msm_jax.models.kernels import Packed
from msm_jax.parallel import mesh

log = logging.getLogger(__name__)


def segment_mask(segment_ids_BT: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Returns the causal mask within segments: entry [b, t, s] is True where token t may see token s.

    Padding (segment 0) sees only padding, never a document.
    """
    length = segment_ids_BT.shape[1]
    causal = jnp.tril(jnp.ones((length, length), dtype=bool))
    return causal & (segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :])


def visible(segment_ids_BT: Int[Array, "B T"], config: ModelConfig) -> Bool[Array, "B T T"] | Packed:
    """Returns what the tokens of packed rows see, causally and within their segments, in the form `attend` takes.

    A mask selects the reference, a `Packed` a kernel. `config.attention` names the backend; "auto" is splash on a TPU,
    cuDNN on a GPU and the reference elsewhere. If a backend cannot take the shapes, the reference runs instead, and a
    warning is logged once.
    """
    platform = mesh.platform()
    chosen = config.attention
    if chosen == "auto":
        chosen = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "reference")
    if chosen != "reference":
        reason = kernels.refusal(chosen, platform, segment_ids_BT.shape[1], config.head_dim, config.compute_dtype)
        if reason is None:
            return Packed(segment_ids_BT, chosen, interpret=platform == "cpu")
        _fall_back(chosen, reason)
    return segment_mask(segment_ids_BT)


@functools.cache
def _fall_back(backend: str, reason: str) -> None:
    log.warning(
        "attention: %s %s; the reference runs instead, and keeps a score for every pair of tokens in a row",
        backend, reason,
    )


def attend(
    q_BTHK: Float[Array, "B T H K"],
    k_BGSK: Float[Array, "B G S K"],
    v_BGSK: Float[Array, "B G S K"],
    seen: Bool[Array, "B T S"] | Packed,
) -> Float[Array, "B T H K"]:
    """Computes softmax attention of H query heads over G key-value heads (H a multiple of G); softmax in float32.

    Args:
        q_BTHK: queries.
        k_BGSK: keys.
        v_BGSK: values.
        seen: the result of `visible`, or a mask that is True where a query sees a key. Every query must see at least
            one key.
    """
    if isinstance(seen, Packed):
        return kernels.attend(q_BTHK, k_BGSK, v_BGSK, seen)
    mask_BTS = seen
    batch, length, heads, size = q_BTHK.shape
    groups = k_BGSK.shape[1]
    repeats = heads // groups
    # Four axes with the heads before the tokens, and N = repeats × T queries per key-value head: with a fifth axis for
    # the repeats, or with the heads after the tokens, XLA on the CPU takes twice as long for the backward pass.
    q_BGRTK = jnp.transpose(q_BTHK.reshape(batch, length, groups, repeats, size), (0, 2, 3, 1, 4))
    q_BGNK = q_BGRTK.reshape(batch, groups, repeats * length, size)
    scores_BGNS = jnp.einsum("bgnk,bgsk->bgns", q_BGNK, k_BGSK, preferred_element_type=jnp.float32) * (size**-0.5)
    mask_BNS = jnp.tile(mask_BTS, (1, repeats, 1))
    scores_BGNS = jnp.where(mask_BNS[:, None], scores_BGNS, jnp.finfo(jnp.float32).min)
    weights_BGNS = jax.nn.softmax(scores_BGNS, axis=-1).astype(v_BGSK.dtype)
    out_BGNK = jnp.einsum("bgns,bgsk->bgnk", weights_BGNS, v_BGSK)
    out_BGRTK = out_BGNK.reshape(batch, groups, repeats, length, size)
    return jnp.transpose(out_BGRTK, (0, 3, 1, 2, 4)).reshape(batch, length, heads, size)
