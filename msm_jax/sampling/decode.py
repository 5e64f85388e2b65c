"""Cached decoding of one batch: the prompts run once, then a compiled loop draws one token per row and step.

Prompts are padded on the left, so token i of every reply lies in the same slot of the cache and is written in place. A
row attends only to its own slots from its first token on, and its positions count from there.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.sampling import draw


class Requests(NamedTuple):
    """The inputs that stay the same while a batch is decoded.

    Attributes:
        start_B: int32, the slot of each row's first token, from 0 to T-1.
        seeds_B: int32, each row's seed.
        stop_ids_K: int32, ids that end a reply.
        known_ids: int32 scalar, the number of the tokenizer's ids. A model may have more, which are never drawn.
        temperature, top_p: float32 scalars. top_k: int32 scalar.
    """

    start_B: Int[Array, " B"]
    seeds_B: Int[Array, " B"]
    stop_ids_K: Int[Array, " K"]
    known_ids: Int[Array, ""]
    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    top_p: Float[Array, ""]


def requests(
    starts: Sequence[int],
    seeds: Sequence[int],
    stop_ids: Sequence[int],
    known_ids: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Requests:
    """Makes `Requests` from Python numbers; if `stop_ids` is empty, no id ends a reply."""
    return Requests(
        jnp.asarray(starts, jnp.int32),
        jnp.asarray(seeds, jnp.int32),
        jnp.asarray(stop_ids or [-1], jnp.int32),
        jnp.int32(known_ids),
        jnp.float32(temperature),
        jnp.int32(top_k),
        jnp.float32(top_p),
    )


class Progress(NamedTuple):
    """The state of a batch between two calls.

    Attributes:
        caches: keys and values in S slots; the first T + step - 1 slots are filled.
        replies_BN: int32; the first `step` columns hold the tokens that were drawn so far.
        step: int32 scalar, the number of tokens that were drawn per row.
        done_B: True for rows that have drawn a stop id, and for padding rows.
    """

    caches: list[transformer.Cache]
    replies_BN: Int[Array, "B N"]
    step: Int[Array, ""]
    done_B: Bool[Array, " B"]


@partial(jax.jit, static_argnames=("config", "new_tokens", "greedy", "filtered"))
def prefill(
    unstacked: transformer.Params,
    config: ModelConfig,
    tokens_BT: Int[Array, "B T"],
    asked: Requests,
    done_B: Bool[Array, " B"],
    new_tokens: int,
    greedy: bool,
    filtered: bool,
) -> Progress:
    """Runs the prompts and draws the first token of each reply. The caches have T slots, all of them filled.

    Args:
        unstacked: from `transformer.unstack`.
        config: the model's shape.
        tokens_BT: int32 prompts, padded on the left to T slots.
        asked: where the rows start and how to draw.
        done_B: True for rows that are padding.
        new_tokens: N, the most tokens per reply.
        greedy: see `draw.next_token`.
        filtered: see `draw.next_token`.
    """
    batch, length = tokens_BT.shape
    slots_T = jnp.arange(length)
    causal_TS = slots_T[:, None] >= slots_T[None]
    mask_BTS = causal_TS[None] & (slots_T >= asked.start_B[:, None])[:, None]
    positions_BT = jnp.maximum(slots_T[None] - asked.start_B[:, None], 0)
    caches = transformer.init_caches(config, batch, length)
    hidden_BTD, filled = transformer.run_layers(unstacked, config, tokens_BT, positions_BT, mask_BTS, caches)
    assert filled is not None
    replies_BN = jnp.zeros((batch, new_tokens), jnp.int32)
    progress = Progress(filled, replies_BN, jnp.zeros((), jnp.int32), done_B)
    return _append(unstacked, config, hidden_BTD[:, -1], asked, progress, length, greedy, filtered)


@partial(jax.jit, static_argnames="slots")
def grow(progress: Progress, slots: int) -> Progress:
    """Enlarges the caches to `slots` slots. Every step reads all slots, so few of them should be empty."""
    more = slots - progress.caches[0]["k"].shape[2]
    return progress._replace(
        caches=jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))), progress.caches)
    )


@partial(jax.jit, static_argnames=("config", "greedy", "filtered"), donate_argnames="progress")
def decode(
    unstacked: transformer.Params,
    config: ModelConfig,
    asked: Requests,
    progress: Progress,
    length: Int[Array, ""],
    until: Int[Array, ""],
    greedy: bool,
    filtered: bool,
) -> Progress:
    """Draws tokens until each row has `until` of them or all rows are done.

    `length` is T, the slots of the prompts. `until` is at most N, and at most S - T + 1, because the token that was
    drawn last is not in the cache yet.
    """
    slots = progress.caches[0]["k"].shape[2]

    def unfinished(now: Progress) -> Any:
        return (now.step < until) & ~jnp.all(now.done_B)

    def advance(now: Progress) -> Progress:
        token_B1 = jax.lax.dynamic_slice_in_dim(now.replies_BN, now.step - 1, 1, axis=1)
        slot = length + now.step - 1
        seen_S = jnp.arange(slots)
        mask_B1S = ((seen_S <= slot) & (seen_S >= asked.start_B[:, None]))[:, None]
        positions_B1 = (slot - asked.start_B)[:, None]
        hidden_B1D, caches = transformer.run_layers(
            unstacked, config, token_B1, positions_B1, mask_B1S, now.caches, slot
        )
        assert caches is not None
        now = now._replace(caches=caches)
        return _append(unstacked, config, hidden_B1D[:, 0], asked, now, length, greedy, filtered)

    return jax.lax.while_loop(unfinished, advance, progress)


def _append(
    unstacked: transformer.Params,
    config: ModelConfig,
    hidden_BD: Float[Array, "B D"],
    asked: Requests,
    progress: Progress,
    length: Int[Array, ""] | int,
    greedy: bool,
    filtered: bool,
) -> Progress:
    """Draws the token that follows `hidden_BD` and writes it into column `step` of the replies."""
    r = asked
    logits_BV = transformer.logits(unstacked, config, hidden_BD)
    logits_BV = jnp.where(jnp.arange(config.vocab_size) < r.known_ids, logits_BV, -jnp.inf)
    positions_B = length + progress.step - r.start_B
    token_B = draw.next_token(
        logits_BV, r.seeds_B, positions_B, r.temperature, r.top_k, r.top_p, greedy, filtered
    )
    return Progress(
        progress.caches,
        jax.lax.dynamic_update_slice_in_dim(progress.replies_BN, token_B[:, None], progress.step, axis=1),
        progress.step + 1,
        progress.done_B | jnp.any(token_B[:, None] == r.stop_ids_K[None], axis=1),
    )
