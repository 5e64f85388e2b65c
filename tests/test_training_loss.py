"""The loss in blocks: the naive loss in value and gradient, on any mesh, in a fraction of its memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_jax.models.config import ModelConfig
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import loss

ROWS, LENGTH, SIZE, VOCAB = 8, 12, 16, 104
TIED = ModelConfig(
    vocab_size=VOCAB, hidden_size=SIZE, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, intermediate_size=16
)
UNTIED = dataclasses.replace(TIED, tie_embeddings=False)
TOKENS, COLUMNS = 2**26, 0  # max_weights: blocks of tokens, or of the vocabulary


def case(model, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = 3 * jax.random.normal(keys[0], (ROWS, LENGTH, SIZE), dtype)
    shape = (VOCAB, SIZE) if model.tie_embeddings else (SIZE, VOCAB)
    weights = jax.random.normal(keys[1], shape)
    targets = jax.random.randint(keys[2], (ROWS, LENGTH), 0, VOCAB)
    return hidden, weights, targets, jax.random.uniform(keys[3], (ROWS, LENGTH)) < 0.7


def naive(hidden, weights, targets, mask, model, z_loss=0.0):
    output = weights.T if model.tie_embeddings else weights
    logits = jnp.einsum("btd,dv->btv", hidden, output.astype(hidden.dtype), preferred_element_type=jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    correct = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(log_z - correct + z_loss * log_z**2, where=mask)


def blocked(hidden, weights, targets, mask, model, max_logits, max_weights, z_loss=0.0):
    params = {"embedding" if model.tie_embeddings else "output": weights}
    return loss.cross_entropy(params, model, hidden, targets, mask, z_loss, max_logits, max_weights)[0]


def gradients(f, *static):
    return jax.jit(jax.value_and_grad(lambda h, w, t, m: f(h, w, t, m, *static), argnums=(0, 1)))


def assert_close(got, expected, rel):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=rel * np.abs(b).max())


@settings(max_examples=6)
@given(max_logits=st.integers(1, ROWS * LENGTH * VOCAB), by=st.sampled_from([TOKENS, COLUMNS]), tied=st.booleans())
def test_any_blocks_give_the_naive_loss_and_gradient(max_logits, by, tied):
    model = TIED if tied else UNTIED
    arrays = case(model)
    expected = gradients(naive, model)(*arrays)
    assert_close(gradients(blocked, model, max_logits, by)(*arrays), expected, 1e-5)


@pytest.mark.parametrize("by", [TOKENS, COLUMNS])
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)])
def test_each_device_walks_its_own_part(shape, by):
    arrays = case(TIED)
    expected = gradients(naive, TIED)(*arrays)
    with jax.set_mesh(make_mesh(MeshConfig(*shape))):
        assert_close(gradients(blocked, TIED, 300, by)(*arrays), expected, 1e-5)


@pytest.mark.parametrize("by", [TOKENS, COLUMNS, None])
def test_z_loss_is_in_the_gradient_and_not_in_the_value(by):
    arrays = case(UNTIED)
    value, _ = gradients(naive, UNTIED)(*arrays)
    _, grads = gradients(naive, UNTIED, 0.1)(*arrays)
    limits = (2**30, 0) if by is None else (500, by)
    assert_close(gradients(blocked, UNTIED, *limits, 0.1)(*arrays), (value, grads), 1e-5)
    _, without = gradients(blocked, UNTIED, *limits)(*arrays)
    assert float(jnp.abs(without[1] - grads[1]).max()) > 1e-2


@pytest.mark.parametrize("by", [TOKENS, COLUMNS])
def test_bfloat16_sums_in_float32(by):
    hidden, weights, targets, mask = case(UNTIED, jnp.bfloat16)
    exact = gradients(naive, UNTIED)(hidden.astype(jnp.float32), weights, targets, mask)
    value, (by_hidden, by_weights) = gradients(blocked, UNTIED, 500, by)(hidden, weights, targets, mask)
    assert (value.dtype, by_hidden.dtype, by_weights.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    assert_close((value, (by_hidden, by_weights)), exact, 2e-2)


@pytest.mark.parametrize("by", [TOKENS, COLUMNS])
def test_a_frozen_output_costs_no_gradient(by):
    """Counts the products of a program that needs only the gradient of hidden states: two, or three if the logits are
    recomputed."""
    hidden, weights, targets, mask = case(UNTIED)

    def products(argnums):
        grad = jax.grad(lambda h, w: blocked(h, w, targets, mask, UNTIED, 500, by), argnums)
        return jax.jit(grad).lower(hidden, weights).compile().as_text().count(" dot(")

    assert products((0, 1)) - products(0) == 1


@pytest.mark.parametrize(("size", "by"), [(64, "tokens"), (1024, "vocabulary")])
def test_memory_at_a_large_vocabulary(size, by):
    """Checks that temporaries of 8 × 4,096 tokens over Qwen's vocabulary take at most 5 % of float32 logits."""
    vocab, rows, length = 151_936, 8, 4096
    model = dataclasses.replace(TIED, vocab_size=vocab, hidden_size=size)
    assert (size * vocab <= loss.MAX_WEIGHTS) == (by == "tokens")
    shapes = (
        jax.ShapeDtypeStruct((rows, length, size), jnp.float32),
        jax.ShapeDtypeStruct((vocab, size), jnp.float32),
        jax.ShapeDtypeStruct((rows, length), jnp.int32),
        jax.ShapeDtypeStruct((rows, length), jnp.bool_),
    )
    compiled = gradients(blocked, model, loss.MAX_LOGITS, loss.MAX_WEIGHTS).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.05 * 4 * rows * length * vocab
