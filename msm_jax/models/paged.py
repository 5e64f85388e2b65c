"""Attention over a cache in pages, so that rows of any length share one memory, and prompts share pages.

A cache holds P pages of S slots each. The table of a row names the page of its first S positions, that of the next S,
and so on. Page 0 belongs to no row: whatever is padding is written there.

Arithmetic does not depend on what else is in the batch. A row's keys are read page by page from its first page on, and
the partial results are combined in that order (the online softmax of arXiv 1805.02867). Pages after the row's last one,
which are read where a longer row is beside it, add exact zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from msm_jax.models.config import ModelConfig
from msm_jax.parallel.sharding import constrain

Cache = dict[str, jax.Array]

# Rows that are read together: each waits for the longest of them, and fewer make more and smaller products.
_GROUP = 8
# The axes of a cache's pages, by their logical names.
AXES = ("pages", "kv_heads", "sequence", "head_dim")


@partial(jax.tree_util.register_dataclass, data_fields=["tables_BP", "order_B"], meta_fields=[])
@dataclass(frozen=True)
class Paged:
    """Where the rows of a batch have their pages.

    `tables_BP` has the page of each S positions of a row, 0 where there is none. `order_B` is a permutation of the rows
    by length, so that those of similar length are read together; None leaves them as they are.
    """

    tables_BP: Int[Array, "B P"]
    order_B: Int[Array, " B"] | None = None


def init(config: ModelConfig, pages: int, slots: int) -> list[Cache]:
    """Returns one {"k", "v"} of zeros [P, G, S, K] per layer, in the compute dtype."""
    shape = (pages, config.num_kv_heads, slots, config.head_dim)
    dtype = jnp.dtype(config.compute_dtype)

    def zeros() -> jax.Array:
        return constrain(jnp.zeros(shape, dtype), *AXES)

    return [{"k": zeros(), "v": zeros()} for _ in range(config.num_layers)]


def page_bytes(config: ModelConfig, slots: int) -> int:
    """Returns the bytes that a page takes in the caches of all layers."""
    values = 2 * config.num_layers * config.num_kv_heads * slots * config.head_dim
    return values * jnp.dtype(config.compute_dtype).itemsize


def write(
    pages_PGSK: Float[Array, "P G S K"],
    new_BTGK: Float[Array, "B T G K"],
    where: Paged,
    positions_BT: Int[Array, "B T"],
) -> Float[Array, "P G S K"]:
    """Writes T consecutive tokens of each row. If T is above 1, they begin a page and fit into it."""
    slots = pages_PGSK.shape[2]
    first_B = positions_BT[:, :1]
    page_B = jnp.take_along_axis(where.tables_BP, first_B // slots, axis=1)[:, 0]
    new_BTGK = new_BTGK.astype(pages_PGSK.dtype)
    if new_BTGK.shape[1] == 1:
        pages_PGSK = pages_PGSK.at[page_B, :, first_B[:, 0] % slots].set(new_BTGK[:, 0])
    else:
        new_BGTK = jnp.swapaxes(new_BTGK, 1, 2)
        for row in range(new_BGTK.shape[0]):
            pages_PGSK = jax.lax.dynamic_update_slice(pages_PGSK, new_BGTK[row : row + 1], (page_B[row], 0, 0, 0))
    return constrain(pages_PGSK, *AXES)


def attend(
    q_BTHK: Float[Array, "B T H K"], cache: Cache, where: Paged, positions_BT: Int[Array, "B T"]
) -> Float[Array, "B T H K"]:
    """Computes causal attention of the queries at `positions_BT` over the pages of their rows; softmax in float32.

    H is a multiple of the G key-value heads of the cache. The keys of the queries' own tokens are in the cache already.
    """
    batch, length, heads, size = q_BTHK.shape
    groups = cache["k"].shape[1]
    repeats = heads // groups
    q_BGRTK = jnp.transpose(q_BTHK.reshape(batch, length, groups, repeats, size), (0, 2, 3, 1, 4))
    q_BGNK = q_BGRTK.reshape(batch, groups, repeats * length, size)
    rows: Any = (q_BGNK, where.tables_BP, positions_BT)
    if where.order_B is not None:
        rows = jax.tree.map(lambda x: x[where.order_B], rows)
    together = math.gcd(batch, _GROUP)
    if together == batch:
        out_BGNK = _read(rows, cache)
    else:
        split = jax.tree.map(lambda x: x.reshape(batch // together, together, *x.shape[1:]), rows)
        out_BGNK = jax.lax.map(lambda each: _read(each, cache), split).reshape(q_BGNK.shape)
    if where.order_B is not None:
        out_BGNK = out_BGNK[jnp.argsort(where.order_B)]
    out_BGRTK = out_BGNK.reshape(batch, groups, repeats, length, size)
    return jnp.transpose(out_BGRTK, (0, 3, 1, 2, 4)).reshape(batch, length, heads, size)


def _read(rows: tuple[jax.Array, jax.Array, jax.Array], cache: Cache) -> Float[Array, "B G N K"]:
    """Reads page after page, up to the last one that any of the rows needs.

    The rows have queries [B, G, N, K], with N = T times the repeats of a key-value head, tables [B, P] and positions
    [B, T].
    """
    q_BGNK, tables_BP, positions_BT = rows
    slots, size = cache["k"].shape[2:]
    lowest = jnp.finfo(jnp.float32).min
    positions_BN = jnp.tile(positions_BT, (1, q_BGNK.shape[2] // positions_BT.shape[1]))

    def pages(pool_PGSK: jax.Array, index: jax.Array) -> jax.Array:
        # Slices of one page each. A gather by `tables_BP[:, index]` takes twice as long on a CPU.
        found = [jax.lax.dynamic_index_in_dim(pool_PGSK, row[index], 0, keepdims=False) for row in tables_BP]
        return jnp.stack(found)

    def add(index: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        most_BGN, sum_BGN, out_BGNK = state
        k_BGSK, v_BGSK = pages(cache["k"], index), pages(cache["v"], index)
        scores_BGNS = jnp.einsum("bgnk,bgsk->bgns", q_BGNK, k_BGSK, preferred_element_type=jnp.float32) * (size**-0.5)
        visible_BNS = index * slots + jnp.arange(slots) <= positions_BN[:, :, None]
        scores_BGNS = jnp.where(visible_BNS[:, None], scores_BGNS, lowest)
        new_BGN = jnp.maximum(most_BGN, jnp.max(scores_BGNS, axis=-1))
        shrunk_BGN = jnp.exp(most_BGN - new_BGN)
        weights_BGNS = jnp.exp(scores_BGNS - new_BGN[..., None])
        mixed_BGNK = jnp.einsum(
            "bgns,bgsk->bgnk", weights_BGNS.astype(v_BGSK.dtype), v_BGSK, preferred_element_type=jnp.float32
        )
        sum_BGN = sum_BGN * shrunk_BGN + jnp.sum(weights_BGNS, axis=-1)
        return new_BGN, sum_BGN, out_BGNK * shrunk_BGN[..., None] + mixed_BGNK

    start_BGN = jnp.full(q_BGNK.shape[:3], lowest)
    state = (start_BGN, jnp.zeros_like(start_BGN), jnp.zeros(q_BGNK.shape, jnp.float32))
    _, sum_BGN, out_BGNK = jax.lax.fori_loop(0, jnp.max(positions_BT) // slots + 1, add, state)
    return (out_BGNK / sum_BGN[..., None]).astype(q_BGNK.dtype)
