"""Attention backends: over packed rows they are the reference, forward and backward, on one device and on meshes."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.models import attention, kernels, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.kernels import Packed
from msm_jax.parallel.mesh import MeshConfig, make_mesh

LENGTH = 256
# Documents of a row: several, one, and some padding; in tiles of 128 their borders lie inside and between tiles.
SEGMENTS = np.array([[1] * 100 + [2] * 28 + [3] * 128, [1] * 3 + [2] * 200 + [0] * (LENGTH - 203)], np.int32)


def operands(heads, groups, size, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    q, weights = (jax.random.normal(k, (2, LENGTH, heads, size), dtype) for k in keys[:2])
    k, v = (jax.random.normal(k, (2, groups, LENGTH, size), dtype) for k in keys[2:])
    return (q, k, v), weights


def with_gradients(run, arrays, weights):
    def loss(q, k, v):
        out = run(q, k, v)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(x, np.float32) for x in (out, *grads)]


def splash(q, k, v):
    return attention.attend(q, k, v, Packed(jnp.asarray(SEGMENTS), "splash", interpret=True))


def cudnn_on_cpu(q, k, v):
    return kernels.cudnn(q, k, v, jnp.asarray(SEGMENTS), implementation="xla")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(kernels, "_MAX_BLOCK", 128)


@pytest.mark.parametrize("run", [splash, cudnn_on_cpu])
@pytest.mark.parametrize(("heads", "groups", "size"), [(2, 2, 128), (4, 2, 64)])
def test_a_backend_is_the_reference_forward_and_backward(run, heads, groups, size):
    arrays, weights = operands(heads, groups, size)
    mask = attention.segment_mask(jnp.asarray(SEGMENTS))
    expected = with_gradients(lambda q, k, v: attention.attend(q, k, v, mask), arrays, weights)
    for want, got in zip(expected, with_gradients(run, arrays, weights), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
