"""The transformer: documents in a packed row do not affect each other, and options change speed, not results."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.models import attention, rotary, transformer
from msm_jax.models.config import ModelConfig

TINY = ModelConfig(
    vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
    qkv_bias=True, qk_norm=True, tie_embeddings=False,
)


@pytest.fixture(scope="module")
def params():
    """Returns parameters with every weight perturbed, so that the tests notice if norms or biases are left out."""
    params = jax.jit(lambda key: transformer.init_params(TINY, key))(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@functools.partial(jax.jit, static_argnums=1)
def run(params, config, tokens, positions, segments):
    hidden = transformer.apply(params, config, tokens, positions, segments)
    return hidden


def packed(lengths, row, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, TINY.vocab_size, (1, row)).astype(np.int32)
    segments, positions = np.zeros((1, row), np.int32), np.zeros((1, row), np.int32)
    start = 0
    for number, length in enumerate(lengths, 1):
        segments[0, start : start + length] = number
        positions[0, start : start + length] = np.arange(length)
        start += length
    return tokens, positions, segments


def test_a_packed_document_is_computed_as_if_alone(params):
    tokens, positions, segments = packed((5, 9, 4), 24)
    together = run(params, TINY, tokens, positions, segments)
    start = 0
    for length in (5, 9, 4):
        part = slice(start, start + length)
        alone = run(
            params, TINY, tokens[:, part], np.arange(length, dtype=np.int32)[None], np.ones((1, length), np.int32)
        )
        np.testing.assert_allclose(together[:, part], alone, atol=2e-6)
        start += length


def test_a_token_does_not_see_what_follows(params):
    tokens, positions, segments = packed((12,), 12)
    before = run(params, TINY, tokens, positions, segments)
    other = tokens.copy()
    other[0, 8] = (tokens[0, 8] + 1) % TINY.vocab_size
    after = run(params, TINY, other, positions, segments)
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert float(jnp.abs(before[:, 8:] - after[:, 8:]).max()) > 1e-3


def test_attention_is_the_textbook_sum():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 6, n, 4)).astype(np.float32) for n in (4, 2, 2))
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2]], np.int32)
    mask = attention.segment_mask(jnp.asarray(segments))
    out = np.asarray(attention.attend(q, np.swapaxes(k, 1, 2), np.swapaxes(v, 1, 2), mask))
    for b in range(2):
        for t in range(6):
            for h in range(4):
                seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
                scores = np.array([q[b, t, h] @ k[b, s, h // 2] / 2.0 for s in seen])
                weights = np.exp(scores - scores.max())
                expected = sum(w * v[b, s, h // 2] for w, s in zip(weights / weights.sum(), seen, strict=True))
                np.testing.assert_allclose(out[b, t, h], expected, atol=1e-5)


def test_rope_depends_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 16)), jnp.float32) for _ in range(2))

    def at(position):
        return jnp.full((1, 1), position, jnp.int32)

    def score(i, j):
        return float(jnp.sum(rotary.rotate(q, at(i), 1e4) * rotary.rotate(k, at(j), 1e4)))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-3)


@pytest.mark.parametrize("change", [{"scan_layers": False}, {"remat": "full"}, {"remat": "dots"}])
def test_options_for_speed_and_memory_leave_loss_and_gradient(params, change):
    tokens, positions, segments = packed((10, 6), 16)

    def loss(params, config):
        hidden = transformer.apply(params, config, tokens, positions, segments)
        return jnp.mean(transformer.logits(params, config, hidden) ** 2)

    config = dataclasses.replace(TINY, **change)
    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected, grads = grad(params, TINY)
    got, other = grad(params, config)
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_bfloat16_compute_stays_close_and_keeps_float32_logits(params):
    tokens, positions, segments = packed((10, 6), 16)
    half = dataclasses.replace(TINY, compute_dtype="bfloat16")
    a = run(params, TINY, tokens, positions, segments)
    b = run(params, half, tokens, positions, segments)
    assert b.dtype == jnp.bfloat16
    assert transformer.logits(params, half, b).dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(a), np.asarray(b, np.float32), atol=0.1)


def test_flops_count_every_matrix_product():
    """Compares the count with the dot products of the traced program, in which every token sees the whole row."""
    length = 16
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def forward(params, tokens):
        hidden = transformer.apply(params, TINY, tokens, tokens, tokens)
        return transformer.logits(params, TINY, hidden)

    def dots(jaxpr):
        total = 0
        for eqn in jaxpr.eqns:
            times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", None)
                if inner is not None:
                    total += times * dots(getattr(inner, "jaxpr", inner))
            if eqn.primitive.name == "dot_general":
                (contract, _), _ = eqn.params["dimension_numbers"]
                inner_size = np.prod([eqn.invars[0].aval.shape[i] for i in contract])
                total += 2 * int(np.prod(eqn.outvars[0].aval.shape)) * int(inner_size)
        return total

    counted = dots(jax.make_jaxpr(forward)(transformer.abstract_params(TINY), tokens).jaxpr)
    assert counted == length * transformer.forward_flops_per_token(TINY, context=length)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_a_product_of_many_terms_rounds_less_and_has_the_gradient_of_the_whole(remat):
    rng = np.random.default_rng(0)
    x, weights, weighted = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, 40, 2500), (2500, 3, 8), (2, 40, 3, 8))
    )

    def run(x, weights, product):
        if remat != "none":
            product = jax.checkpoint(product, policy=transformer._remat_policy(remat))
        out = product(x, weights)
        return jnp.sum(out * weighted), out

    def whole(x, weights):
        return jnp.einsum("btk,khm->bthm", x, weights)

    grad = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True), static_argnums=2)
    (_, out), grads = grad(x, weights, transformer.project)
    (_, plain), expected = grad(x, weights, whole)
    exact = np.einsum("btk,khm->bthm", x.astype(np.float64), weights.astype(np.float64))
    mine, theirs = (np.sqrt(np.mean((each - exact) ** 2)) for each in (out, plain))
    assert mine < 0.9 * theirs
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
