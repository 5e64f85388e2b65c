"""Attention kernels that never hold a score for every pair of tokens: splash on TPUs, cuDNN on GPUs.

Both take packed rows, causal within segments, with grouped-query heads. Each device runs the kernel on its own rows
and heads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from msm_jax.parallel import parts

# What a kernel leaves for its backward pass, by the name under which a remat policy may save it.
RESIDUALS = "attention_residuals"
# JAX's primitive of cuDNN's forward pass, whose results a remat policy may save: they cannot be named from outside.
CUDNN_FORWARD = "dot_product_attention_fwd_wrapper"

# Rows of a tile are the lanes of the vector unit, or a multiple. Tiles of 512 × 512 compile for all of v4 to v6e, with
# the backward kernels; at 2,048 they overflow the scoped memory of v5e.
_LANES, _MAX_BLOCK = 128, 512


@partial(jax.tree_util.register_dataclass, data_fields=["segment_ids_BT"], meta_fields=["backend", "interpret"])
@dataclass(frozen=True)
class Packed:
    """Packed rows whose tokens see what lies before them in their own segment, and the kernel that attends to them.

    `interpret` runs splash without a TPU, slowly.
    """

    segment_ids_BT: Int[Array, "B T"]
    backend: str
    interpret: bool = False


def refusal(backend: str, platform: str, length: int, head_dim: int, dtype: str) -> str | None:
    """Why a backend cannot run on this platform with these shapes, or None where it can.

    Args:
        backend: "splash" or "cudnn". platform: of the devices: "cpu", "gpu" or "tpu".
        length: tokens in a row. head_dim: size of a head. dtype: of queries, keys and values.
    """
    if backend == "splash":
        if platform not in ("tpu", "cpu"):
            return f"needs a TPU and runs on {platform}"
        return f"takes rows of a multiple of {_LANES} tokens, not {length}" if length % _LANES else None
    if platform != "gpu":
        return f"needs a GPU and runs on {platform}"
    if _compute_capability() < (8, 0):
        return "needs an NVIDIA GPU of compute capability 8.0 or more"
    if dtype != "bfloat16":
        return f"takes bfloat16, not {dtype}"
    if head_dim % 8 or head_dim > 128:
        return f"takes heads of a multiple of 8 up to 128, not {head_dim}"
    return f"takes rows of an even number of tokens, not {length}" if length % 2 else None


def _compute_capability() -> tuple[int, ...]:
    """Of the GPUs here; () of other makers' and of none."""
    text = getattr(jax.local_devices()[0], "compute_capability", "")
    return tuple(int(number) for number in text.split(".")) if re.fullmatch(r"\d+\.\d+", text) else ()


def attend(
    q_BTHK: Float[Array, "B T H K"],
    k_BGTK: Float[Array, "B G T K"],
    v_BGTK: Float[Array, "B G T K"],
    packed: Packed,
) -> Float[Array, "B T H K"]:
    """Softmax attention over packed rows by the kernel that `packed` names; see `models.attention.attend`."""
    kernel = partial(splash, interpret=packed.interpret) if packed.backend == "splash" else cudnn
    run = parts.shard_map(
        kernel,
        (
            ("batch", "sequence", "heads", "head_dim"),
            ("batch", "kv_heads", "sequence", "head_dim"),
            ("batch", "kv_heads", "sequence", "head_dim"),
            ("batch", "sequence"),
        ),
        ("batch", "sequence", "heads", "head_dim"),
    )
    return run(q_BTHK, k_BGTK, v_BGTK, packed.segment_ids_BT)


def splash(
    q_BTHK: Float[Array, "B T H K"],
    k_BGTK: Float[Array, "B G T K"],
    v_BGTK: Float[Array, "B G T K"],
    segment_ids_BT: Int[Array, "B T"],
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Pallas' sparse flash attention for TPUs; T must be a multiple of 128."""
    # Seconds to import, which only those who run it should wait for.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    _, length, heads, size = q_BTHK.shape
    block = next(size for size in range(_MAX_BLOCK, 0, -_LANES) if length % size == 0)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((length, length))] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block, block_kv=block, block_kv_compute=block,
            block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
            block_q_dq=block, block_kv_dq=block,
        ),
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )

    def one(q_HTK: jax.Array, k_GTK: jax.Array, v_GTK: jax.Array, ids_T: jax.Array) -> jax.Array:
        return kernel(q_HTK, k_GTK, v_GTK, segment_ids=splash_attention_kernel.SegmentIds(ids_T, ids_T))

    scaled_BTHK = (q_BTHK.astype(jnp.float32) * size**-0.5).astype(q_BTHK.dtype)  # the kernel does not scale
    out_BHTK = jax.vmap(one)(jnp.swapaxes(scaled_BTHK, 1, 2), k_BGTK, v_BGTK, segment_ids_BT)
    return jnp.swapaxes(out_BHTK, 1, 2)


def cudnn(
    q_BTHK: Float[Array, "B T H K"],
    k_BGTK: Float[Array, "B G T K"],
    v_BGTK: Float[Array, "B G T K"],
    segment_ids_BT: Int[Array, "B T"],
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B T H K"]:
    """cuDNN's flash attention; segments reach it as a mask, one byte for each pair of a row's tokens.

    `implementation` "xla" computes the same from the same arguments where there is no GPU.
    """
    same_B1TT = (segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q_BTHK,
        jnp.swapaxes(k_BGTK, 1, 2),
        jnp.swapaxes(v_BGTK, 1, 2),
        mask=same_B1TT,
        is_causal=True,
        implementation=implementation,
    )
