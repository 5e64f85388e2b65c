"""Rotary frequencies: fast ones are kept, slow ones are stretched, and YaRN scales the rotation."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.models import rotary
from msm_jax.models.config import RopeScaling

THETA, SIZE, CONTEXT = 5e5, 128, 8192


def turns(frequencies):
    """Returns how often each pair turns within the context of pretraining."""
    return CONTEXT * frequencies.astype(np.float64) / (2 * math.pi)


def test_without_scaling_they_are_powers_of_theta():
    found, scale = rotary.frequencies(SIZE, THETA, None)
    np.testing.assert_allclose(found, [THETA ** (-2 * i / SIZE) for i in range(SIZE // 2)], rtol=1e-7)
    assert scale == 1.0


@pytest.mark.parametrize(
    ("scaling", "kept", "stretched"),
    [
        # Llama 3.1 keeps what turns more than four times and stretches what turns less than once.
        (RopeScaling("llama3", 8.0, CONTEXT), 4.0, 1.0),
        # YaRN's bounds, rounded outwards to whole pairs: one pair is a factor of theta^(2/size) in turns.
        (RopeScaling("yarn", 4.0, CONTEXT), 32.0 * THETA ** (2 / SIZE), 1.0 / THETA ** (2 / SIZE)),
    ],
)
def test_fast_pairs_stay_and_slow_ones_are_stretched(scaling, kept, stretched):
    plain, _ = rotary.frequencies(SIZE, THETA, None)
    found, _ = rotary.frequencies(SIZE, THETA, scaling)
    fast, slow = turns(plain) > kept, turns(plain) < stretched
    assert fast.any() and slow.any() and (~fast & ~slow).any()
    np.testing.assert_array_equal(found[fast], plain[fast])
    np.testing.assert_allclose(found[slow], plain[slow] / scaling.factor, rtol=1e-6)
    ratio = plain / found
    assert (np.diff(ratio) >= -1e-6).all(), "the stretch grows from pair to pair"
    assert ratio.min() == 1.0
    assert ratio.max() == pytest.approx(scaling.factor)


def test_yarn_scales_queries_and_keys():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 2, SIZE)), jnp.float32)
    positions = jnp.arange(5)[None]
    for scaling, factor in (
        (RopeScaling("yarn", 4.0, CONTEXT), 0.1 * math.log(4.0) + 1),
        (RopeScaling("yarn", 4.0, CONTEXT, attention_factor=1.7), 1.7),
        (RopeScaling("llama3", 4.0, CONTEXT), 1.0),
    ):
        norms = jnp.linalg.norm(rotary.rotate(x, positions, THETA, scaling), axis=-1) / jnp.linalg.norm(x, axis=-1)
        np.testing.assert_allclose(norms, factor, rtol=1e-5)
