"""Cross-entropy whose logits are too many to be held at once, block by block, with exact gradients.

* With a small output matrix, in blocks of tokens. The logits of a block are used for the loss and both gradients at
  once, so that nothing is computed twice; the whole gradient of the matrix is held meanwhile.
* With a large one, in blocks of the vocabulary. A first pass computes log Z of each token, a second one computes the
  logits again for the gradients. Only one block of the matrix at a time is gathered from the devices, and only one
  block of its gradient is summed over them. The loss of each token, whose gradient is known only after all of them,
  takes these blocks too.

Each device processes its own tokens and its own part of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from msm_jax.parallel import mesh, parts


@dataclass(frozen=True)
class Blocks:
    """Settings of the blocks. `axes` are those of the weights: ("vocab", "embed") for an embedding, else reversed."""

    axes: tuple[str, ...]
    z_loss: float
    max_logits: int

    def shard_map(self, f: Any, out_axes: Any, more: tuple[tuple[str, ...], ...] = ()) -> Any:
        tokens = ("batch", "sequence")
        return parts.shard_map(f, ((*tokens, "hidden"), self.axes, tokens, tokens, *more), out_axes)

    @property
    def by_rows(self) -> bool:
        """Whether each id has a row of the weights, as in an embedding, rather than a column."""
        return self.axes[0] == "vocab"

    def all_gather(self, weights: jax.Array, dtype: Any) -> jax.Array:
        """Returns weights in the compute dtype, gathered over the devices that share the batch."""
        return parts.all_gather_parameter(weights.astype(dtype), self.axes)

    def turned(self, matrix: jax.Array) -> jax.Array:
        """Returns weights [D, V], a column for each id, from weights as they are stored; or the reverse."""
        return matrix.T if self.by_rows else matrix

    def psum_scatter(self, by_whole: jax.Array) -> jax.Array:
        """Returns the gradient of `whole`: summed over the batch, each device keeping its part."""
        return parts.psum_scatter_gradient(by_whole, self.axes)


def _cut(size: int, most: int) -> tuple[int, int]:
    """Returns the number of blocks of at most `most`, and their length; the last one may overlap the one before it.
    Long blocks are rounded to 128, the lanes of a TPU's vector unit."""
    number = math.ceil(size / max(1, min(most, size)))
    block = math.ceil(size / number)
    if 128 < block < size:
        block = min(size, math.ceil(block / 128) * 128)
    return math.ceil(size / block), block


def _products(hidden_ND: jax.Array, output_DV: jax.Array) -> Float[Array, "N V"]:
    return jnp.matmul(hidden_ND, output_DV, preferred_element_type=jnp.float32)


def _picked(logits_NV: jax.Array, columns_N: jax.Array) -> Float[Array, " N"]:
    """Returns one logit of each row, 0 if its column is outside of the block."""
    inside_N = (columns_N >= 0) & (columns_N < logits_NV.shape[1])
    picked_N1 = jnp.take_along_axis(logits_NV, jnp.where(inside_N, columns_N, 0)[:, None], axis=-1)
    return jnp.where(inside_N, picked_N1[:, 0], 0)


def _at(columns_N: jax.Array, values_N: jax.Array, columns: int) -> Float[Array, "N V"]:
    """Returns zeros except for one value in each row."""
    return jnp.where(columns_N[:, None] == jnp.arange(columns), values_N[:, None], 0)


# Blocks of tokens.


def _walk_tokens(
    blocks: Blocks,
    wants: tuple[bool, bool],
    hidden_BTD: jax.Array,
    weights: jax.Array,
    targets_BT: jax.Array,
    mask_BT: jax.Array,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Returns the loss of a device's tokens, and the wanted gradients by hidden states and by weights."""
    dtype = hidden_BTD.dtype
    # As they are stored: transposed copies of them and of the gradient would take a twentieth of a step on a CPU.
    whole = blocks.all_gather(weights, dtype)
    columns, size = whole.shape if blocks.by_rows else whole.shape[::-1]
    hidden_ND, targets_N, mask_N = hidden_BTD.reshape(-1, size), targets_BT.reshape(-1), mask_BT.reshape(-1)
    first = parts.axis_index("vocab") * columns
    most = blocks.max_logits // columns
    if mesh.platform() != "gpu":
        # About 4 MiB of logits stay in a CPU's cache. With fewer than 512 tokens, reading and writing the whole
        # gradient by the weights for each block takes longer than the products.
        most = min(most, max(512, 2**20 // columns))
    number, block = _cut(hidden_ND.shape[0], most)

    def body(carry: Any, i: jax.Array) -> tuple[Any, None]:
        loss, by_hidden, by_whole = carry
        start = jnp.minimum(i * block, hidden_ND.shape[0] - block)
        x, targets, mask = (jax.lax.dynamic_slice_in_dim(a, start, block) for a in (hidden_ND, targets_N, mask_N))
        weight = (mask & (start + jnp.arange(block) >= i * block)).astype(jnp.float32)
        # Transposed here and not before the scan: here it is a part of the products, before it would be a copy.
        output_DV = blocks.turned(whole)
        logits = _products(x, output_DV)
        top = parts.pmax(jnp.max(logits, axis=-1), "vocab")
        powers = jnp.exp(logits - top[:, None])
        z = parts.psum(jnp.sum(powers, axis=-1), "vocab")
        log_z = top + jnp.log(z)
        correct = parts.psum(_picked(logits, targets - first), "vocab")
        loss = loss + jnp.sum(weight * (log_z - correct))
        scale = weight * (1 + 2 * blocks.z_loss * log_z) / z
        by_logits = (scale[:, None] * powers - _at(targets - first, weight, columns)).astype(dtype)
        if by_hidden is not None:
            new = parts.psum(_products(by_logits, output_DV.T), "vocab").astype(dtype)
            new = new + jax.lax.dynamic_slice_in_dim(by_hidden, start, block)
            by_hidden = jax.lax.dynamic_update_slice_in_dim(by_hidden, new, start, 0)
        if by_whole is not None:
            by_whole = by_whole + (_products(by_logits.T, x) if blocks.by_rows else _products(x.T, by_logits))
        return (loss, by_hidden, by_whole), None

    zero = (
        jnp.zeros((), jnp.float32),
        jnp.zeros_like(hidden_ND) if wants[0] else None,
        jnp.zeros(whole.shape, jnp.float32) if wants[1] else None,
    )
    (loss, by_hidden, by_whole), _ = jax.lax.scan(body, zero, jnp.arange(number))
    return (
        parts.psum(loss, "batch"),
        None if by_hidden is None else by_hidden.reshape(hidden_BTD.shape),
        None if by_whole is None else blocks.psum_scatter(by_whole).astype(weights.dtype),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_tokens(
    blocks: Blocks, hidden_BTD: jax.Array, weights: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array
) -> jax.Array:
    """Returns the summed loss (nats) of the targets in the mask, from blocks of tokens."""
    run = blocks.shard_map(lambda *arrays: _walk_tokens(blocks, (False, False), *arrays)[0], ())
    return run(hidden_BTD, weights, targets_BT, mask_BT)


def _by_tokens_forward(blocks: Blocks, *primals: Any) -> tuple[jax.Array, Any]:
    wants = (primals[0].perturbed, primals[1].perturbed)
    axes = ((), ("batch", "sequence", "hidden") if wants[0] else None, blocks.axes if wants[1] else None)
    run = blocks.shard_map(partial(_walk_tokens, blocks, wants), axes)
    loss, *gradients = run(*(primal.value for primal in primals))
    return loss, gradients


def _by_tokens_backward(blocks: Blocks, gradients: Any, g: jax.Array) -> tuple[Any, ...]:
    scaled = [None if x is None else (g * x.astype(jnp.float32)).astype(x.dtype) for x in gradients]
    return (*scaled, None, None)


by_tokens.defvjp(_by_tokens_forward, _by_tokens_backward, symbolic_zeros=True)


# Blocks of the vocabulary.


def _each(
    blocks: Blocks, hidden_BTD: jax.Array, weights: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss and log Z of each of a device's tokens, both [N]."""
    hidden_ND, targets_N = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), targets_BT.reshape(-1)

    def body(carry: Any, i: jax.Array) -> tuple[Any, None]:
        top, z, correct = carry
        output, first, fresh = _columns(blocks, hidden_ND, weights, i)
        logits = _products(hidden_ND, output)
        correct = correct + _picked(jnp.where(fresh, logits, 0), targets_N - first)
        logits = jnp.where(fresh, logits, jnp.finfo(jnp.float32).min)
        new = jnp.maximum(top, jnp.max(logits, axis=-1))
        z = z * jnp.exp(top - new) + jnp.sum(jnp.exp(logits - new[:, None]), axis=-1)
        return (new, z, correct), None

    zero_N = jnp.zeros(hidden_ND.shape[0], jnp.float32)
    number = _columns_cut(blocks, hidden_ND, weights)[0]
    start = (zero_N + jnp.finfo(jnp.float32).min, zero_N, zero_N)
    (top_N, z_N, correct_N), _ = jax.lax.scan(body, start, jnp.arange(number))
    largest_N = parts.pmax(top_N, "vocab")
    log_z_N = largest_N + jnp.log(parts.psum(z_N * jnp.exp(top_N - largest_N), "vocab"))
    return log_z_N - parts.psum(correct_N, "vocab"), log_z_N


def _log_z(
    blocks: Blocks, hidden_BTD: jax.Array, weights: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of a device's tokens, and log Z of each token [B, T]."""
    loss_N, log_z_N = _each(blocks, hidden_BTD, weights, targets_BT)
    loss = jnp.sum(loss_N, where=mask_BT.reshape(-1))
    return parts.psum(loss, "batch"), log_z_N.reshape(targets_BT.shape)


def _each_log_z(
    blocks: Blocks, hidden_BTD: jax.Array, weights: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of each of a device's tokens, 0 outside the mask, and their log Z, both [B, T]."""
    loss_N, log_z_N = _each(blocks, hidden_BTD, weights, targets_BT)
    return jnp.where(mask_BT, loss_N.reshape(mask_BT.shape), 0), log_z_N.reshape(mask_BT.shape)


def _columns_cut(blocks: Blocks, hidden_ND: jax.Array, weights: jax.Array) -> tuple[int, int]:
    # Twice as many logits as for tokens, since each block reads and writes the gradient by all hidden states.
    return _cut(weights.shape[blocks.axes.index("vocab")], 2 * blocks.max_logits // hidden_ND.shape[0])


def _columns(
    blocks: Blocks, hidden_ND: jax.Array, weights: jax.Array, i: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns block `i` of a device's part of the output matrix, its first id, and a mask of its new columns."""
    axis = blocks.axes.index("vocab")
    _, block = _columns_cut(blocks, hidden_ND, weights)
    start = jnp.minimum(i * block, weights.shape[axis] - block)
    columns = jax.lax.dynamic_slice_in_dim(weights, start, block, axis)
    output = blocks.turned(blocks.all_gather(columns, hidden_ND.dtype))
    return output, parts.axis_index("vocab") * weights.shape[axis] + start, start + jnp.arange(block) >= i * block


def _gradients(
    blocks: Blocks,
    wants: tuple[bool, bool],
    hidden_BTD: jax.Array,
    weights: jax.Array,
    targets_BT: jax.Array,
    mask_BT: jax.Array,
    log_z_BT: jax.Array,
    g: jax.Array,
) -> tuple[jax.Array | None, jax.Array | None]:
    """Returns the wanted gradients by hidden states and by weights, times `g`: a scalar, or [B, T] by token."""
    dtype = hidden_BTD.dtype
    hidden_ND, targets_N = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), targets_BT.reshape(-1)
    g = g.reshape(-1) if g.ndim else g
    log_z_N, weight_N = log_z_BT.reshape(-1), g * mask_BT.reshape(-1).astype(jnp.float32)
    scale_N = weight_N * (1 + 2 * blocks.z_loss * log_z_N)
    axis = blocks.axes.index("vocab")
    number, block = _columns_cut(blocks, hidden_ND, weights)

    def body(carry: Any, i: jax.Array) -> tuple[Any, None]:
        by_hidden, by_weights = carry
        output, first, fresh = _columns(blocks, hidden_ND, weights, i)
        powers = scale_N[:, None] * jnp.exp(_products(hidden_ND, output) - log_z_N[:, None])
        by_logits = jnp.where(fresh, powers - _at(targets_N - first, weight_N, block), 0).astype(dtype)
        if by_hidden is not None:
            by_hidden = by_hidden + _products(by_logits, output.T)
        if by_weights is not None:
            start = jnp.minimum(i * block, weights.shape[axis] - block)
            new = blocks.psum_scatter(blocks.turned(_products(hidden_ND.T, by_logits))).astype(weights.dtype)
            new = new + jax.lax.dynamic_slice_in_dim(by_weights, start, block, axis)
            by_weights = jax.lax.dynamic_update_slice_in_dim(by_weights, new, start, axis)
        return (by_hidden, by_weights), None

    zero = (
        jnp.zeros(hidden_ND.shape, jnp.float32) if wants[0] else None,
        jnp.zeros_like(weights) if wants[1] else None,
    )
    (by_hidden, by_weights), _ = jax.lax.scan(body, zero, jnp.arange(number))
    if by_hidden is not None:
        by_hidden = parts.psum(by_hidden, "vocab").astype(dtype).reshape(hidden_BTD.shape)
    return by_hidden, by_weights


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_vocabulary(
    blocks: Blocks, hidden_BTD: jax.Array, weights: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array
) -> jax.Array:
    """Returns the summed loss (nats) of the targets in the mask, from blocks of the vocabulary."""
    run = blocks.shard_map(lambda *arrays: _log_z(blocks, *arrays)[0], ())
    return run(hidden_BTD, weights, targets_BT, mask_BT)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def each_by_vocabulary(
    blocks: Blocks, hidden_BTD: jax.Array, weights: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array
) -> jax.Array:
    """Returns the loss (nats) of each target, 0 outside the mask, from blocks of the vocabulary."""
    run = blocks.shard_map(lambda *arrays: _each_log_z(blocks, *arrays)[0], _TOKENS)
    return run(hidden_BTD, weights, targets_BT, mask_BT)


_TOKENS = ("batch", "sequence")


def _vocabulary_forward(f: Any, loss_axes: tuple[str, ...], blocks: Blocks, *primals: Any) -> tuple[jax.Array, Any]:
    arrays = tuple(primal.value for primal in primals)
    loss, log_z_BT = blocks.shard_map(partial(f, blocks), (loss_axes, _TOKENS))(*arrays)
    # Which gradients are wanted is passed on as structure: () or None.
    wants = tuple(() if primal.perturbed else None for primal in primals[:2])
    return loss, (arrays, log_z_BT, wants)


def _vocabulary_backward(
    loss_axes: tuple[str, ...], blocks: Blocks, residuals: Any, g: jax.Array
) -> tuple[Any, ...]:
    arrays, log_z_BT, wanted = residuals
    wants = (wanted[0] is not None, wanted[1] is not None)
    axes = (("batch", "sequence", "hidden") if wants[0] else None, blocks.axes if wants[1] else None)
    run = blocks.shard_map(partial(_gradients, blocks, wants), axes, (_TOKENS, loss_axes))
    return (*run(*arrays, log_z_BT, g), None, None)


for _function, _walk, _axes in ((by_vocabulary, _log_z, ()), (each_by_vocabulary, _each_log_z, _TOKENS)):
    _function.defvjp(
        partial(_vocabulary_forward, _walk, _axes), partial(_vocabulary_backward, _axes), symbolic_zeros=True
    )
