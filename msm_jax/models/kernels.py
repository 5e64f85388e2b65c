"""Attention kernels that do not store a score for every pair of tokens: splash on TPUs, cuDNN on GPUs.

Both compute causal attention within the segments of packed rows, with grouped-query heads. Each device runs the kernel
on its own rows and heads.
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

# The name by which a remat policy may save what a kernel keeps for its backward pass.
RESIDUALS = "attention_residuals"
# JAX's primitive of cuDNN's forward pass. Its results cannot be given a name, so a remat policy finds them by it.
CUDNN_FORWARD = "dot_product_attention_fwd_wrapper"

# The rows of a tile are a multiple of the lanes of the vector unit. Tiles of 512 × 512 compile on v4 to v6e, backward
# kernels included; tiles of 2,048 × 2,048 exceed the scoped memory of v5e.
_LANES, _MAX_BLOCK = 128, 512


@partial(jax.tree_util.register_dataclass, data_fields=["segment_ids_BT"], meta_fields=["backend", "interpret"])
@dataclass(frozen=True)
class Packed:
    """Packed rows whose tokens see the tokens before them in their own segment, and the kernel that computes attention.

    `interpret` runs splash without a TPU, slowly.
    """

    segment_ids_BT: Int[Array, "B T"]
    backend: str
    interpret: bool = False


def refusal(backend: str, platform: str, length: int, head_dim: int, dtype: str) -> str | None:
    """Returns why a backend cannot run on this platform with these shapes, or None if it can.

    Args:
        backend: "splash" or "cudnn".
        platform: the platform of the devices: "cpu", "gpu" or "tpu".
        length: the number of tokens in a row.
        head_dim: the size of a head.
        dtype: the dtype of queries, keys and values.
    """
    if backend == "splash":
        if platform not in ("tpu", "cpu"):
            return f"needs a TPU, but the platform is {platform}"
        return f"takes rows whose length is a multiple of {_LANES} tokens, not {length}" if length % _LANES else None
    if platform != "gpu":
        return f"needs a GPU, but the platform is {platform}"
    if _compute_capability() < (8, 0):
        return "needs an NVIDIA GPU with compute capability 8.0 or higher"
    if dtype != "bfloat16":
        return f"takes bfloat16, not {dtype}"
    if head_dim % 8 or head_dim > 128:
        return f"takes heads whose size is a multiple of 8 up to 128, not {head_dim}"
    return f"takes rows with an even number of tokens, not {length}" if length % 2 else None


def _compute_capability() -> tuple[int, ...]:
    """Returns the CUDA compute capability of the first local GPU, () otherwise."""
    text = getattr(jax.local_devices()[0], "compute_capability", "")
    return tuple(int(number) for number in text.split(".")) if re.fullmatch(r"\d+\.\d+", text) else ()


def attend(
    q_BTHK: Float[Array, "B T H K"],
    k_BGTK: Float[Array, "B G T K"],
    v_BGTK: Float[Array, "B G T K"],
    packed: Packed,
) -> Float[Array, "B T H K"]:
    """Computes softmax attention over packed rows with the kernel of `packed`; see `models.attention.attend`."""
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
    """Computes attention with Pallas' sparse flash attention for TPUs; T must be a multiple of 128."""
    # Takes seconds to import, so it is imported only where it runs.
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
    """Computes attention with cuDNN's flash attention. Segments are passed as a mask of one byte per pair of tokens.

    With `implementation` "xla", the same is computed from the same arguments without a GPU.
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
