"""The choice of the next token from logits: the most likely one, or a draw from the tokens that top-k and top-p keep.

A draw depends only on the row's own logits, seed and position, so a request gets the same tokens in any batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32


def next_token(
    logits_BV: Float[Array, "B V"],
    seeds_B: Int[Array, " B"],
    positions_B: Int[Array, " B"],
    temperature: Float[Array, ""],
    top_k: Int[Array, ""],
    top_p: Float[Array, ""],
    greedy: bool,
    filtered: bool,
) -> Int[Array, " B"]:
    """Returns the next token of each row as int32 ids.

    Args:
        logits_BV: float32 scores over the vocabulary.
        seeds_B: the seed of each request.
        positions_B: the position that the drawn token will have in its sequence.
        temperature: divides the logits; above 0. Unused if `greedy`.
        top_k: as in `SamplingConfig`; unused unless `filtered`.
        top_p: as in `SamplingConfig`; unused unless `filtered`.
        greedy: whether to take the most likely token.
        filtered: whether top_k or top_p may exclude tokens.
    """
    if greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    scaled_BV = logits_BV / temperature
    if filtered:
        scaled_BV = jnp.where(kept(scaled_BV, top_k, top_p), scaled_BV, -jnp.inf)

    def noise(seed: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), position)
        return jax.random.gumbel(key, logits_BV.shape[1:], jnp.float32)

    return jnp.argmax(scaled_BV + jax.vmap(noise)(seeds_B, positions_B), axis=-1).astype(jnp.int32)


def kept(
    scaled_BV: Float[Array, "B V"], top_k: Int[Array, ""] | int, top_p: Float[Array, ""] | float
) -> Bool[Array, "B V"]:
    """Returns which tokens top-k (0 for all) keeps, and of these top-p, with the probabilities renormalised between.

    Tokens that are exactly as likely as the least likely kept token are kept too, so the order of ids decides nothing.
    """
    vocabulary = scaled_BV.shape[-1]
    order_BV = _ordered_bits(scaled_BV)
    count = jnp.where(top_k > 0, jnp.minimum(top_k, vocabulary), vocabulary)
    ones = jnp.ones_like(scaled_BV)
    within_k_BV = order_BV >= _threshold(order_BV, ones, count.astype(jnp.float32))[:, None]
    mass_BV = jax.nn.softmax(jnp.where(within_k_BV, scaled_BV, -jnp.inf), axis=-1)
    within_p_BV = order_BV >= _threshold(order_BV, mass_BV, top_p)[:, None]
    return within_k_BV & within_p_BV


def _ordered_bits(x: Float[Array, "B V"]) -> UInt32[Array, "B V"]:
    """Returns the bits of float32 values, changed so that their order as unsigned integers is that of the values."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.uint32)  # -0.0 + 0.0 is 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _threshold(
    order_BV: UInt32[Array, "B V"], weight_BV: Float[Array, "B V"], target: Float[Array, ""] | float
) -> UInt32[Array, " B"]:
    """Finds, by bisection over its bits, the largest t for which the weights of entries >= t sum to at least `target`.

    32 sums are several times faster than one sort of the vocabulary. If rounding keeps the sum of all weights below
    `target`, t is 0, and every entry is >= 0.
    """

    def set_bit(i: jax.Array, found_B: jax.Array) -> jax.Array:
        tried_B = found_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        reached_B = jnp.sum(weight_BV, axis=-1, where=order_BV >= tried_B[:, None]) >= target
        return jnp.where(reached_B, tried_B, found_B)

    return jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(order_BV.shape[0], jnp.uint32))
