"""The compiled programs of the engine: prefill of prompts, decoding of all rows, copying of pages.

Their shapes are fixed by the engine, so nothing is compiled after each has run once. Which rows are in use, how long
they are and how they draw is data.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msm_jax.models import paged, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.paged import Cache, Paged
from msm_jax.sampling import draw
from msm_jax.sampling.draw import Drawing

# The most alternatives to a drawn token whose log-probability can be asked for, as in the OpenAI protocol.
MOST_ALTERNATIVES = 20
# Pages that are copied, or rows that begin to decode, by one call.
COPIES = 8


class Rows(NamedTuple):
    """The state of the rows before a call of `decode`.

    Attributes:
        tokens_B: int32, the last token of each row, which is not in the cache yet.
        positions_B: int32, its position.
        limits_B: int32, the most tokens that the row may draw in this call; 0 for an unused row.
        pages: the rows' pages; unused rows have only page 0.
        drawing: how each row draws.
        stop_ids_BK: int32, ids that end the row's reply, filled up with -1.
        scored_B: whether the log-probabilities of drawn tokens are asked for.
        uses_AB: see `lora.Active`.
    """

    tokens_B: Int[Array, " B"]
    positions_B: Int[Array, " B"]
    limits_B: Int[Array, " B"]
    pages: Paged
    drawing: Drawing
    stop_ids_BK: Int[Array, "B K"]
    scored_B: Bool[Array, " B"]
    uses_AB: Float[Array, "A B"]


class Drawn(NamedTuple):
    """What a call of `decode` has drawn: `counts_B` tokens per row, and the work that it took.

    The log-probabilities are the model's own, at temperature 1 and without filters. They are 0 unless a row asked.

    Attributes:
        tokens_BN: int32, the drawn tokens.
        counts_B: int32, how many of them each row has.
        chosen_BN: float32, the log-probability of each drawn token.
        likely_BNA: int32, the most likely tokens in its place. likely_log_BNA: float32, their log-probabilities.
        steps: int32 scalar, the steps that were run.
    """

    tokens_BN: Int[Array, "B N"]
    counts_B: Int[Array, " B"]
    chosen_BN: Float[Array, "B N"]
    likely_BNA: Int[Array, "B N A"]
    likely_log_BNA: Float[Array, "B N A"]
    steps: Int[Array, ""]


class _State(NamedTuple):
    caches: list[Cache]
    tokens_B: Int[Array, " B"]
    positions_B: Int[Array, " B"]
    live_B: Bool[Array, " B"]
    drawn: Drawn


@partial(jax.jit, static_argnames="config", donate_argnames="caches")
def prefill(
    unstacked: transformer.Params,
    config: ModelConfig,
    caches: list[Cache],
    tokens_RT: Int[Array, "R T"],
    starts_R: Int[Array, " R"],
    tables_RP: Int[Array, "R P"],
    uses_AR: Float[Array, "A R"],
) -> list[Cache]:
    """Fills one page of each row with the keys and values of T tokens, or its first T slots.

    Args:
        unstacked: from `transformer.unstack`.
        config: the model's shape.
        caches: from `paged.init`.
        tokens_RT: int32 tokens, filled up on the right.
        starts_R: the position of each row's first token, where a page begins.
        tables_RP: the pages of each row; 0 for padding rows.
        uses_AR: see `lora.Active`.
    """
    positions_RT = starts_R[:, None] + jnp.arange(tokens_RT.shape[1])
    _, filled = transformer.run_layers(
        unstacked, config, tokens_RT, positions_RT, Paged(tables_RP), caches, uses_AR
    )
    assert filled is not None
    return filled


@partial(jax.jit, static_argnames=("config", "most"), donate_argnames="caches")
def decode(
    unstacked: transformer.Params,
    config: ModelConfig,
    caches: list[Cache],
    rows: Rows,
    steps: Int[Array, ""],
    known_ids: Int[Array, ""],
    most: int,
) -> tuple[list[Cache], Drawn]:
    """Draws up to `steps` tokens in each row, until the row has reached its limit or drawn a stop id.

    Args:
        unstacked: from `transformer.unstack`.
        config: the model's shape.
        caches: from `paged.init`.
        rows: where the rows are and how to draw.
        steps: at most `most`.
        known_ids: the number of the tokenizer's ids. A model may have more, which are never drawn.
        most: the columns of the result.
    """

    def unfinished(now: _State) -> jax.Array:
        return (now.drawn.steps < steps) & jnp.any(now.live_B)

    def advance(now: _State) -> _State:
        hidden_B1D, caches = transformer.run_layers(
            unstacked, config, now.tokens_B[:, None], now.positions_B[:, None], rows.pages, now.caches, rows.uses_AB
        )
        assert caches is not None
        logits_BV = transformer.logits(unstacked, config, hidden_B1D[:, 0])
        logits_BV = jnp.where(jnp.arange(config.vocab_size) < known_ids, logits_BV, -jnp.inf)
        token_B = draw.next_token(logits_BV, now.positions_B + 1, rows.drawing)
        drawn = _recorded(now.drawn, token_B, now.live_B, logits_BV, rows.scored_B)
        stopped_B = jnp.any(token_B[:, None] == rows.stop_ids_BK, axis=1)
        return _State(
            caches,
            jnp.where(now.live_B, token_B, now.tokens_B),
            now.positions_B + now.live_B,
            now.live_B & ~stopped_B & (drawn.counts_B < rows.limits_B),
            drawn,
        )

    batch, likely = rows.tokens_B.shape[0], min(MOST_ALTERNATIVES, config.vocab_size)
    nothing = Drawn(
        jnp.zeros((batch, most), jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros((batch, most)),
        jnp.zeros((batch, most, likely), jnp.int32),
        jnp.zeros((batch, most, likely)),
        jnp.zeros((), jnp.int32),
    )
    first = _State(caches, rows.tokens_B, rows.positions_B, rows.limits_B > 0, nothing)
    last = jax.lax.while_loop(unfinished, advance, first)
    return last.caches, last.drawn


def _recorded(
    drawn: Drawn, token_B: jax.Array, live_B: jax.Array, logits_BV: jax.Array, scored_B: jax.Array
) -> Drawn:
    """Returns what was drawn, with one more token in the rows that are live."""
    likely = drawn.likely_BNA.shape[2]

    def scores(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        log_BV = jax.nn.log_softmax(logits_BV, axis=-1)
        chosen_B = jnp.take_along_axis(log_BV, token_B[:, None], axis=1)[:, 0]
        best_BA, ids_BA = jax.lax.top_k(log_BV, likely)
        return chosen_B, ids_BA, best_BA

    def none(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        rows = logits_BV.shape[0]
        return jnp.zeros(rows), jnp.zeros((rows, likely), jnp.int32), jnp.zeros((rows, likely))

    chosen_B, ids_BA, best_BA = jax.lax.cond(jnp.any(scored_B & live_B), scores, none, logits_BV)

    def put(into: jax.Array, column: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(into, column[:, None], drawn.steps, axis=1)

    return Drawn(
        put(drawn.tokens_BN, token_B),
        drawn.counts_B + live_B,
        put(drawn.chosen_BN, chosen_B),
        put(drawn.likely_BNA, ids_BA),
        put(drawn.likely_log_BNA, best_BA),
        drawn.steps + 1,
    )


def copy_pages(caches: list[Cache], sources_N: Int[Array, " N"], targets_N: Int[Array, " N"]) -> list[Cache]:
    """Copies pages in all layers; page 0 to page 0 for padding. No target is a source.

    Reading and writing are two programs: in one, XLA on the CPU would copy the whole cache first.
    """
    return _write_pages(caches, _read_pages(caches, sources_N), targets_N)


@jax.jit
def _read_pages(caches: list[Cache], sources_N: Int[Array, " N"]) -> list[Cache]:
    def of(pool_PGSK: jax.Array) -> jax.Array:
        return jnp.concatenate([jax.lax.dynamic_slice_in_dim(pool_PGSK, source, 1) for source in sources_N])

    return [{"k": of(cache["k"]), "v": of(cache["v"])} for cache in caches]


@partial(jax.jit, donate_argnames="caches")
def _write_pages(caches: list[Cache], pages: list[Cache], targets_N: Int[Array, " N"]) -> list[Cache]:
    def into(pool_PGSK: jax.Array, pages_NGSK: jax.Array) -> jax.Array:
        for n in range(len(pages_NGSK)):
            pool_PGSK = jax.lax.dynamic_update_slice_in_dim(pool_PGSK, pages_NGSK[n : n + 1], targets_N[n], axis=0)
        return pool_PGSK

    both = zip(caches, pages, strict=True)
    return [{**cache, **{name: into(cache[name], new[name]) for name in new}} for cache, new in both]


@partial(jax.jit, donate_argnames="caches")
def place(caches: list[Cache], rows_N: Int[Array, " N"], tables_NJ: Int[Array, "N J"]) -> list[Cache]:
    """Puts the first pages of rows that begin to decode near, in all layers; see `paged.place`."""
    return [paged.place(cache, rows_N, tables_NJ) for cache in caches]


def prefill_sizes(page: int) -> Sequence[int]:
    """Returns the numbers of tokens that a call of `prefill` takes per row: a page, a half, … down to 16 at least.

    The rows of a call are as many as make a page's tokens together, so that a call takes the same time in all sizes.
    """
    sizes = [page]
    while sizes[-1] % 2 == 0 and sizes[-1] >= 32:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]
