"""Rotary positions: frequencies with the scalings of Llama 3.1 and YaRN, and the rotation itself."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from msm_jax.models.config import RopeScaling


@functools.lru_cache
def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> tuple[np.ndarray, float]:
    """Radians per position of each pair of a head, and what sine and cosine are multiplied by.

    Computed in float64, as a rounding error here grows with the position.

    Args:
        head_dim: K, even.
        theta: base of the wavelengths (RoFormer, arXiv 2104.09864).
        scaling: how they are stretched for longer contexts.

    Returns:
        float32 [K / 2], fastest first, and a factor that is 1 but for YaRN.
    """
    half = head_dim // 2
    plain_K = theta ** (-np.arange(half) / half)
    if scaling is None:
        return plain_K.astype(np.float32), 1.0
    stretched_K = plain_K / scaling.factor
    if scaling.kind == "llama3":
        # Wavelengths above the first bound are stretched, below the second kept, and blended between the two
        # (Llama 3.1's reference code).
        turns_K = scaling.original_max_position_embeddings * plain_K / (2 * math.pi)
        span = scaling.high_freq_factor - scaling.low_freq_factor
        kept_K = np.clip((turns_K - scaling.low_freq_factor) / span, 0.0, 1.0)
    else:
        # "NTK by parts" (YaRN, arXiv 2309.00071, section 3.2): pairs that turn more than beta_fast times within the
        # original context are kept, those of less than beta_slow turns are stretched.
        low, high = (_pair_of(turns, head_dim, theta, scaling) for turns in (scaling.beta_fast, scaling.beta_slow))
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        kept_K = 1 - np.clip((np.arange(half) - low) / max(high - low, 0.001), 0.0, 1.0)
    return (kept_K * plain_K + (1 - kept_K) * stretched_K).astype(np.float32), scaling.attention_scale


def _pair_of(turns: float, head_dim: int, theta: float, scaling: RopeScaling) -> float:
    """The (fractional) index of the pair that turns so often within the original context."""
    wavelengths = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
    return head_dim * math.log(wavelengths) / (2 * math.log(theta))


def rotate(
    x_BTNK: Float[Array, "B T N K"],
    positions_BT: Int[Array, "B T"],
    theta: float,
    scaling: RopeScaling | None = None,
) -> Float[Array, "B T N K"]:
    """Rotary position embedding in the half-split form of Llama and Qwen checkpoints (RoFormer, arXiv 2104.09864).

    Args:
        x_BTNK: queries or keys, N heads of size K (even).
        positions_BT: the position of each token in its own segment.
        theta: base of the wavelengths.
        scaling: how they are stretched for longer contexts.

    Returns:
        The rotated array, in the dtype of `x_BTNK`; angles are computed in float32.
    """
    half = x_BTNK.shape[-1] // 2
    frequencies_K, scale = frequencies(x_BTNK.shape[-1], theta, scaling)
    angles_BTK = positions_BT[..., None].astype(jnp.float32) * frequencies_K
    sin_BT1K, cos_BT1K = scale * jnp.sin(angles_BTK)[:, :, None], scale * jnp.cos(angles_BTK)[:, :, None]
    first, second = x_BTNK[..., :half].astype(jnp.float32), x_BTNK[..., half:].astype(jnp.float32)
    rotated: jax.Array = jnp.concatenate(
        [first * cos_BT1K - second * sin_BT1K, second * cos_BT1K + first * sin_BT1K], axis=-1
    )
    return rotated.astype(x_BTNK.dtype)
