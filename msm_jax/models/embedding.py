"""The embedding lookup over a mesh on which each device holds a block of rows and columns of the table."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from msm_jax.parallel import parts, sharding

_TABLE, _TOKENS, _HIDDEN = ("vocab", "embed"), ("batch", "sequence"), ("batch", "sequence", "hidden")


def lookup(table_VD: Float[Array, "V D"], tokens_BT: Int[Array, "B T"], dtype: Any) -> Float[Array, "B T D"]:
    """Returns the row of the table for each token, in `dtype`. Gradients are added up in the table's own dtype.

    By itself, XLA would gather all hidden states or the whole table on every device. Here the ids are sent to the
    devices that hold the columns, which send the columns back to the devices that hold the tokens. A batch whose rows
    the mesh does not divide (the one row that initialises a model) is left to XLA.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or tokens_BT.shape[0] % sharding.ways("batch", mesh.shape):
        return table_VD[tokens_BT].astype(dtype)
    return _over_mesh(dtype, table_VD, tokens_BT)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_mesh(dtype: Any, table_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    return parts.shard_map(partial(_find, dtype), (_TABLE, _TOKENS), _HIDDEN)(table_VD, tokens_BT)


def _forward(dtype: Any, table_VD: jax.Array, tokens_BT: jax.Array) -> tuple[jax.Array, Any]:
    return _over_mesh(dtype, table_VD, tokens_BT), (table_VD, tokens_BT)


def _backward(dtype: Any, residuals: Any, by_hidden_BTD: jax.Array) -> tuple[jax.Array, None]:
    return parts.shard_map(_add_up, (_TABLE, _TOKENS, _HIDDEN), _TABLE)(*residuals, by_hidden_BTD), None


_over_mesh.defvjp(_forward, _backward)


def _find(dtype: Any, table: jax.Array, tokens: jax.Array) -> jax.Array:
    rows, here = _rows(table, tokens)
    found = jnp.where(here[..., None], table[rows].astype(dtype), 0)
    return parts.psum(parts.all_to_all(found, "embed", split_axis=0, concat_axis=2), "vocab")


def _add_up(table: jax.Array, tokens: jax.Array, by_hidden: jax.Array) -> jax.Array:
    rows, here = _rows(table, tokens)
    columns = parts.all_to_all(by_hidden, "embed", split_axis=2, concat_axis=0).astype(table.dtype)
    added = jnp.zeros_like(table).at[rows].add(jnp.where(here[..., None], columns, 0))
    return parts.psum(added, "batch", besides="embed")


def _rows(table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the rows of this device's part of the table for the tokens that it looks up, and which rows it holds.

    It looks up the tokens of all devices that hold other columns of the same rows. Both arrays have their shape.
    """
    rows = parts.all_gather(tokens, "embed") - parts.axis_index("vocab") * table.shape[0]
    here = (rows >= 0) & (rows < table.shape[0])
    return jnp.where(here, rows, 0), here
