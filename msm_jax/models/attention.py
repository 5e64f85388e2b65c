"""Masked grouped-query attention, the reference that runs on any device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def segment_mask(segment_ids_BT: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Causal mask within segments: entry [b, t, s] is True where token t may see token s. Padding (0) sees itself alone
    or other padding, never a document."""
    length = segment_ids_BT.shape[1]
    causal = jnp.tril(jnp.ones((length, length), dtype=bool))
    return causal & (segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :])


def attend(
    q_BTHK: Float[Array, "B T H K"],
    k_BGSK: Float[Array, "B G S K"],
    v_BGSK: Float[Array, "B G S K"],
    mask_BTS: Bool[Array, "B T S"],
) -> Float[Array, "B T H K"]:
    """Softmax attention with H query heads on G key-value heads (H a multiple of G); softmax in float32.

    Every query must see at least one key.
    """
    batch, length, heads, size = q_BTHK.shape
    groups = k_BGSK.shape[1]
    repeats = heads // groups
    # Four axes, heads before tokens, N = repeats × T queries a head: with an axis for the repeats, or with the heads
    # between tokens and sizes, XLA on the CPU takes twice as long for the backward pass.
    q_BGRTK = jnp.transpose(q_BTHK.reshape(batch, length, groups, repeats, size), (0, 2, 3, 1, 4))
    q_BGNK = q_BGRTK.reshape(batch, groups, repeats * length, size)
    scores_BGNS = jnp.einsum("bgnk,bgsk->bgns", q_BGNK, k_BGSK, preferred_element_type=jnp.float32) * (size**-0.5)
    mask_BNS = jnp.tile(mask_BTS, (1, repeats, 1))
    scores_BGNS = jnp.where(mask_BNS[:, None], scores_BGNS, jnp.finfo(jnp.float32).min)
    weights_BGNS = jax.nn.softmax(scores_BGNS, axis=-1).astype(v_BGSK.dtype)
    out_BGNK = jnp.einsum("bgns,bgsk->bgnk", weights_BGNS, v_BGSK)
    out_BGRTK = out_BGNK.reshape(batch, groups, repeats, length, size)
    return jnp.transpose(out_BGRTK, (0, 3, 1, 2, 4)).reshape(batch, length, heads, size)
