"""Attention over a cache in pages, so that rows of any length share one memory, and prompts share pages.

A cache holds P pages of S slots each. The table of a row names the page of its first S positions, that of the next S,
and so on. Page 0 belongs to no row: whatever is padding is written there.

Decoding reads and writes the first pages of each row in an array of their own, "near", because a product over a whole
array needs no copy of it. They are put there once, when the row begins to decode (`place`). Prefill knows only pages.

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
# A softmax over some of the keys: the largest score and the sum of weights [B, G, N], and the weighted values.
_Partial = tuple[jax.Array, jax.Array, jax.Array]

# Rows that are read together: each waits for the longest of them, and fewer make more and smaller products.
_GROUP = 8
# The pages of each row that are near.
NEAR = 2
# The axes of a cache's pages, and of what is near, by their logical names.
AXES = ("pages", "kv_heads", "sequence", "head_dim")
NEAR_AXES = ("pages", *AXES)


@partial(jax.tree_util.register_dataclass, data_fields=["tables_BP", "order_B"], meta_fields=[])
@dataclass(frozen=True)
class Paged:
    """Where the rows of a batch have their pages.

    `tables_BP` has the page of each S positions of a row, 0 where there is none. `order_B` is a permutation of the rows
    by length, so that those of similar length are read together; None leaves them as they are.
    """

    tables_BP: Int[Array, "B P"]
    order_B: Int[Array, " B"] | None = None


def init(config: ModelConfig, pages: int, slots: int, rows: int) -> list[Cache]:
    """Returns zeros for each layer, in the compute dtype.

    "k" and "v" are [P, G, S, K], "near_k" and "near_v" [B, J, G, S, K] with J = `NEAR` and B rows that decode.
    """
    shape = (config.num_kv_heads, slots, config.head_dim)
    dtype = jnp.dtype(config.compute_dtype)

    def layer() -> Cache:
        far = {name: constrain(jnp.zeros((pages, *shape), dtype), *AXES) for name in ("k", "v")}
        near = {f"near_{name}": constrain(jnp.zeros((rows, NEAR, *shape), dtype), *NEAR_AXES) for name in far}
        return {**far, **near}

    return [layer() for _ in range(config.num_layers)]


def place(cache: Cache, rows_N: Int[Array, " N"], tables_NJ: Int[Array, "N J"]) -> Cache:
    """Copies the first pages of rows that begin to decode to where they are near."""
    placed = dict(cache)
    for name in ("k", "v"):
        near = cache[f"near_{name}"]
        for n in range(rows_N.shape[0]):
            for j in range(NEAR):
                page = jax.lax.dynamic_slice_in_dim(cache[name], tables_NJ[n, j], 1)
                near = jax.lax.dynamic_update_slice(near, page[None], (rows_N[n], j, 0, 0, 0))
        placed[f"near_{name}"] = constrain(near, *NEAR_AXES)
    return placed


def page_bytes(config: ModelConfig, slots: int) -> int:
    """Returns the bytes that a page takes in the caches of all layers."""
    values = 2 * config.num_layers * config.num_kv_heads * slots * config.head_dim
    return values * jnp.dtype(config.compute_dtype).itemsize


def write(
    cache: Cache,
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    where: Paged,
    positions_BT: Int[Array, "B T"],
) -> Cache:
    """Writes T consecutive tokens of each row. If T is above 1, they begin a page and fit into it."""
    slots = cache["k"].shape[2]
    index_B, slot_B = positions_BT[:, 0] // slots, positions_BT[:, 0] % slots
    page_B = jnp.take_along_axis(where.tables_BP, index_B[:, None], axis=1)[:, 0]
    written = dict(cache)
    for name, new_BTGK in (("k", k_BTGK), ("v", v_BTGK)):
        new_BTGK = new_BTGK.astype(cache[name].dtype)
        pages_PGSK = cache[name]
        if new_BTGK.shape[1] == 1:
            rows_B, near = jnp.arange(len(new_BTGK)), f"near_{name}"
            new_BGK = new_BTGK[:, 0]
            near_BJGSK = cache[near].at[rows_B, index_B, :, slot_B].set(new_BGK, mode="drop")
            written[near] = constrain(near_BJGSK, *NEAR_AXES)
            pages_PGSK = pages_PGSK.at[jnp.where(index_B < NEAR, 0, page_B), :, slot_B].set(new_BGK)
        else:
            new_BGTK = jnp.swapaxes(new_BTGK, 1, 2)
            for row in range(new_BGTK.shape[0]):
                pages_PGSK = jax.lax.dynamic_update_slice(pages_PGSK, new_BGTK[row : row + 1], (page_B[row], 0, 0, 0))
        written[name] = constrain(pages_PGSK, *AXES)
    return written


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
    state = _nothing(q_BGNK) if length > 1 else _read_near(q_BGNK, cache, positions_BT)
    rows: Any = (q_BGNK, where.tables_BP, positions_BT, state)
    first = 0 if length > 1 else NEAR
    if where.order_B is not None:
        rows = jax.tree.map(lambda x: x[where.order_B], rows)
    together = math.gcd(batch, _GROUP)
    if together == batch:
        out_BGNK = _read(rows, cache, first)
    else:
        split = jax.tree.map(lambda x: x.reshape(batch // together, together, *x.shape[1:]), rows)
        out_BGNK = jax.lax.map(lambda each: _read(each, cache, first), split).reshape(q_BGNK.shape)
    if where.order_B is not None:
        out_BGNK = out_BGNK[jnp.argsort(where.order_B)]
    out_BGRTK = out_BGNK.reshape(batch, groups, repeats, length, size)
    return jnp.transpose(out_BGRTK, (0, 3, 1, 2, 4)).reshape(batch, length, heads, size)


def _nothing(q_BGNK: Float[Array, "B G N K"]) -> _Partial:
    """Returns the softmax over no keys."""
    most_BGN = jnp.full(q_BGNK.shape[:3], jnp.finfo(jnp.float32).min)
    return most_BGN, jnp.zeros_like(most_BGN), jnp.zeros(q_BGNK.shape, jnp.float32)


def _read_near(
    q_BGNK: Float[Array, "B G N K"], cache: Cache, positions_B1: Int[Array, "B 1"]
) -> _Partial:
    """Reads the near pages of all rows. Their maximum is exact in any order, and their sums are added in order."""
    k_BJGSK, v_BJGSK = cache["near_k"], cache["near_v"]
    slots, size = k_BJGSK.shape[3:]
    q_BJGNK = jnp.broadcast_to(q_BGNK[:, None], (q_BGNK.shape[0], NEAR, *q_BGNK.shape[1:]))
    scores_BJGNS = jnp.einsum("bjgnk,bjgsk->bjgns", q_BJGNK, k_BJGSK, preferred_element_type=jnp.float32)
    visible_BJS = jnp.arange(NEAR * slots).reshape(NEAR, slots) <= positions_B1[:, :, None]
    scores_BJGNS = scores_BJGNS * (size**-0.5)
    scores_BJGNS = jnp.where(visible_BJS[:, :, None, None], scores_BJGNS, jnp.finfo(jnp.float32).min)
    most_BGN = jnp.max(scores_BJGNS, axis=(1, 4))
    weights_BJGNS = jnp.exp(scores_BJGNS - most_BGN[:, None, ..., None])
    mixed_BJGNK = jnp.einsum(
        "bjgns,bjgsk->bjgnk", weights_BJGNS.astype(v_BJGSK.dtype), v_BJGSK, preferred_element_type=jnp.float32
    )
    sums_BJGN = jnp.sum(weights_BJGNS, axis=-1)
    sum_BGN, out_BGNK = sums_BJGN[:, 0], mixed_BJGNK[:, 0]
    for j in range(1, NEAR):
        sum_BGN, out_BGNK = sum_BGN + sums_BJGN[:, j], out_BGNK + mixed_BJGNK[:, j]
    return most_BGN, sum_BGN, out_BGNK


def _read(
    rows: tuple[jax.Array, jax.Array, jax.Array, _Partial], cache: Cache, first: int
) -> Float[Array, "B G N K"]:
    """Reads page after page, from the first one up to the last one that any of the rows needs.

    The rows have queries [B, G, N, K], with N = T times the repeats of a key-value head, tables [B, P], positions
    [B, T], and what was read before.
    """
    q_BGNK, tables_BP, positions_BT, before = rows
    slots, size = cache["k"].shape[2:]
    lowest = jnp.finfo(jnp.float32).min
    positions_BN = jnp.tile(positions_BT, (1, q_BGNK.shape[2] // positions_BT.shape[1]))

    def pages(pool_PGSK: jax.Array, index: jax.Array) -> jax.Array:
        # Slices of one page each. A gather by `tables_BP[:, index]` takes twice as long on a CPU.
        found = [jax.lax.dynamic_index_in_dim(pool_PGSK, row[index], 0, keepdims=False) for row in tables_BP]
        return jnp.stack(found)

    def add(index: jax.Array, state: _Partial) -> _Partial:
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

    _, sum_BGN, out_BGNK = jax.lax.fori_loop(first, jnp.max(positions_BT) // slots + 1, add, before)
    return (out_BGNK / sum_BGN[..., None]).astype(q_BGNK.dtype)
