"""The choice of the next token from logits: the most likely one, or a draw from the tokens that top-k and top-p keep.

A draw depends only on the row's own logits, seed and position, so a request gets the same tokens in any batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32


class Drawing(NamedTuple):
    """How each row draws: the seed of its request, and the settings of `SamplingConfig`, as arrays [B]."""

    seeds_B: Int[Array, " B"]
    temperature_B: Float[Array, " B"]
    top_k_B: Int[Array, " B"]
    top_p_B: Float[Array, " B"]


def next_token(
    logits_BV: Float[Array, "B V"], positions_B: Int[Array, " B"], drawing: Drawing
) -> Int[Array, " B"]:
    """Returns the next token of each row as int32 ids.

    What no row asks for is not computed: neither noise if all rows are greedy, nor what top-k and top-p keep.

    Args:
        logits_BV: float32 scores over the vocabulary.
        positions_B: the position that the drawn token will have in its sequence.
        drawing: how each row draws; a temperature of 0 takes the most likely token.
    """
    greedy_B = drawing.temperature_B == 0
    filtered_B = ~greedy_B & ((drawing.top_k_B > 0) | (drawing.top_p_B < 1))

    def drawn(logits_BV: jax.Array) -> jax.Array:
        scaled_BV = logits_BV / jnp.where(greedy_B, 1, drawing.temperature_B)[:, None]
        scaled_BV = jax.lax.cond(jnp.any(filtered_B), filtered, lambda x: x, scaled_BV)
        noisy_BV = scaled_BV + jax.vmap(noise)(drawing.seeds_B, positions_B)
        return jnp.argmax(jnp.where(greedy_B[:, None], logits_BV, noisy_BV), axis=-1)

    def filtered(scaled_BV: jax.Array) -> jax.Array:
        # A row without filters keeps all tokens, also those that rounding would take from it.
        kept_BV = kept(scaled_BV, drawing.top_k_B, drawing.top_p_B) | ~filtered_B[:, None]
        return jnp.where(kept_BV, scaled_BV, -jnp.inf)

    def noise(seed: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), position)
        return jax.random.gumbel(key, logits_BV.shape[1:], jnp.float32)

    best = jax.lax.cond(jnp.all(greedy_B), lambda x: jnp.argmax(x, axis=-1), drawn, logits_BV)
    return best.astype(jnp.int32)


def kept(
    scaled_BV: Float[Array, "B V"], top_k_B: Int[Array, " B"], top_p_B: Float[Array, " B"]
) -> Bool[Array, "B V"]:
    """Returns which tokens top-k (0 for all) keeps, and of these top-p, with the probabilities renormalised between.

    Tokens that are exactly as likely as the least likely kept token are kept too, so the order of ids decides nothing.
    """
    vocabulary = scaled_BV.shape[-1]
    order_BV = _ordered_bits(scaled_BV)
    count_B = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, vocabulary), vocabulary)
    ones = jnp.ones_like(scaled_BV)
    within_k_BV = order_BV >= _threshold(order_BV, ones, count_B.astype(jnp.float32))[:, None]
    mass_BV = jax.nn.softmax(jnp.where(within_k_BV, scaled_BV, -jnp.inf), axis=-1)
    within_p_BV = order_BV >= _threshold(order_BV, mass_BV, top_p_B)[:, None]
    return within_k_BV & within_p_BV


def _ordered_bits(x: Float[Array, "B V"]) -> UInt32[Array, "B V"]:
    """Returns the bits of float32 values, changed so that their order as unsigned integers is that of the values."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.uint32)  # -0.0 + 0.0 is 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _threshold(
    order_BV: UInt32[Array, "B V"], weight_BV: Float[Array, "B V"], target_B: Float[Array, " B"]
) -> UInt32[Array, " B"]:
    """Finds, by bisection over its bits, the largest t for which the weights of entries >= t reach `target_B`.

    32 sums are several times faster than one sort of the vocabulary. If rounding keeps the sum of all weights below
    `target_B`, t is 0, and every entry is >= 0.
    """

    def set_bit(i: jax.Array, found_B: jax.Array) -> jax.Array:
        tried_B = found_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        reached_B = jnp.sum(weight_BV, axis=-1, where=order_BV >= tried_B[:, None]) >= target_B
        return jnp.where(reached_B, tried_B, found_B)

    return jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(order_BV.shape[0], jnp.uint32))
