"""Rotary positions: frequencies with the scalings of Llama 3.1 and YaRN, and the rotation."""

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
    """Returns the radians per position of each pair of a head, and the factor of sine and cosine.

    Computed in float64, since a rounding error grows with the position.

    Args:
        head_dim: K, even.
        theta: base of the wavelengths (RoFormer, arXiv 2104.09864).
        scaling: how the wavelengths are stretched for longer contexts.

    Returns:
        float32 [K / 2], fastest first, and a factor, which is 1 except with YaRN.
    """
    half = head_dim // 2
    plain_K = theta ** (-np.arange(half) / half)
    if scaling is None:
        return plain_K.astype(np.float32), 1.0
    stretched_K = plain_K / scaling.factor
    if scaling.kind == "llama3":
        # Wavelengths above the first bound are stretched, those below the second are kept, and those between the bounds
        # are blended (Llama 3.1's reference code).
        turns_K = scaling.original_max_position_embeddings * plain_K / (2 * math.pi)
        span = scaling.high_freq_factor - scaling.low_freq_factor
        kept_K = np.clip((turns_K - scaling.low_freq_factor) / span, 0.0, 1.0)
    else:
        # "NTK by parts" (YaRN, arXiv 2309.00071, section 3.2): pairs that turn more than beta_fast times within the
        # original context are kept, and those that turn less than beta_slow times are stretched.
        low, high = (_pair_of(turns, head_dim, theta, scaling) for turns in (scaling.beta_fast, scaling.beta_slow))
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        kept_K = 1 - np.clip((np.arange(half) - low) / max(high - low, 0.001), 0.0, 1.0)
    return (kept_K * plain_K + (1 - kept_K) * stretched_K).astype(np.float32), scaling.attention_scale


def _pair_of(turns: float, head_dim: int, theta: float, scaling: RopeScaling) -> float:
    """Returns the fractional index of the pair that makes this number of turns within the original context."""
    wavelengths = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
    return head_dim * math.log(wavelengths) / (2 * math.log(theta))


def rotate(
    x_BTNK: Float[Array, "B T N K"],
    positions_BT: Int[Array, "B T"],
    theta: float,
    scaling: RopeScaling | None = None,
) -> Float[Array, "B T N K"]:
    """Applies rotary positions in the half-split form of Llama and Qwen checkpoints (RoFormer, arXiv 2104.09864).

    Args:
        x_BTNK: queries or keys, N heads of size K (even).
        positions_BT: the position of each token in its own segment.
        theta: base of the wavelengths.
        scaling: how the wavelengths are stretched for longer contexts.

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
