"""An adapter beside the base computes what merged weights compute, on every path, and dropout has explicit keys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.errors import InputError
from msm_jax.models import lora, paged, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter, LoraConfig

TINY = ModelConfig(
    vocab_size=48, hidden_size=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, intermediate_size=20,
    qkv_bias=True,
)
TARGETS = lora.targets()
TOKENS = np.random.default_rng(0).integers(0, 48, (2, 10), dtype=np.int32)
POSITIONS = np.broadcast_to(np.arange(10, dtype=np.int32), (2, 10))


def params(seed=0):
    return jax.jit(lambda key: transformer.init_params(TINY, key))(jax.random.key(seed))


def adapter(seed, rank=3, alpha=6.0, targets=TARGETS, dropout=0.0):
    """Returns an adapter whose `b` is not zero."""
    config = LoraConfig(rank, alpha, targets, dropout)
    weights = lora.init_weights(config, TINY, jax.random.key(seed))
    key = jax.random.key(seed + 100)
    return Adapter(jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), weights), config)


@jax.jit
def run(base, active):
    return transformer.apply(base, TINY, TOKENS, POSITIONS, np.ones_like(TOKENS), active)


def hidden(base, *stack, keys=None):
    active = lora.activate(stack, TINY, keys) if stack else None
    return np.asarray(run(base, active))


def test_a_fresh_adapter_changes_nothing():
    config = LoraConfig(4, 8.0)
    fresh = Adapter(lora.init_weights(config, TINY, jax.random.key(1)), config)
    np.testing.assert_array_equal(hidden(params()), hidden(params(), fresh))


@pytest.mark.parametrize("target", TARGETS)
def test_beside_equals_merged_for_each_matrix(target):
    base, one = params(), adapter(1, targets=(target,))
    beside = hidden(base, one)
    assert np.abs(beside - hidden(base)).max() > 1e-3
    np.testing.assert_allclose(beside, hidden(jax.jit(lora.merge)(base, one)), atol=2e-5)


def test_stacked_adapters_add_up_and_their_order_does_not_matter():
    base, one, two = params(), adapter(1), adapter(2, rank=2, alpha=1.0, targets=("value", "down"))
    merged = hidden(lora.merge(lora.merge(base, one), two))
    np.testing.assert_allclose(hidden(base, one, two), merged, atol=2e-5)
    np.testing.assert_allclose(hidden(base, two, one), merged, atol=2e-5)


def test_cached_decoding_applies_them_too():
    base, stack = params(), (adapter(1), adapter(2, targets=("query", "up")))
    unstacked = transformer.unstack(base, TINY, stack)
    caches = paged.init(TINY, 7, 2, 2)
    pages = paged.Paged(np.array([[0, 0, 1, 2, 5], [0, 0, 4, 3, 6]], np.int32))
    step = jax.jit(transformer.run_layers, static_argnums=1)
    rows = []
    for slot in range(10):
        now = np.s_[:, slot : slot + 1]
        out, caches = step(unstacked, TINY, TOKENS[now], POSITIONS[now], pages, caches)
        rows.append(out[:, 0])
    np.testing.assert_allclose(np.stack(rows, 1), hidden(base, *stack), atol=2e-5)


def test_merging_rounds_once_to_the_dtype_of_the_base():
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
    one = adapter(1, targets=("gate",))
    got = lora.merge(base, one)["layers"]["gate"]
    pair = one.weights["layers"]["gate"]
    exact = base["layers"]["gate"].astype(jnp.float32) + 2.0 * jnp.einsum("lir,lro->lio", pair["a"], pair["b"])
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(exact), rtol=2**-8)


def test_weights_start_as_peft_draws_them():
    config = LoraConfig(8, 16.0)
    weights = lora.init_weights(config, TINY, jax.random.key(0))["layers"]
    for target, pair in weights.items():
        inputs, outputs = lora.sizes(TINY, target)
        assert pair["a"].shape == (3, inputs, 8)
        assert pair["b"].shape == (3, 8, outputs)
        assert not pair["b"].any()
        top = float(jnp.abs(pair["a"]).max())
        assert 0.9 * inputs**-0.5 < top <= inputs**-0.5
        # A uniform distribution on [-bound, bound] has the standard deviation bound / sqrt(3).
        assert float(pair["a"].std()) == pytest.approx((3 * inputs) ** -0.5, rel=0.15)
    alone = lora.init_weights(dataclasses.replace(config, targets=("value",)), TINY, jax.random.key(0))["layers"]
    np.testing.assert_array_equal(alone["value"]["a"], weights["value"]["a"])


def test_dropout_follows_from_seed_step_and_row_alone():
    base, one = params(), adapter(1, dropout=0.5)
    keys = lora.row_keys(jnp.uint32(7), jnp.int32(3), 2)
    again = lora.row_keys(jnp.uint32(7), jnp.int32(3), 2)
    first = hidden(base, one, keys=keys)
    np.testing.assert_array_equal(first, hidden(base, one, keys=again))
    for other in (lora.row_keys(jnp.uint32(8), jnp.int32(3), 2), lora.row_keys(jnp.uint32(7), jnp.int32(4), 2)):
        assert np.abs(first - hidden(base, one, keys=other)).max() > 1e-3
    swapped = hidden(base, one, keys=keys[::-1])
    assert np.abs(first - swapped).max() > 1e-3
    # Without keys, as in evaluation and sampling, nothing is dropped.
    np.testing.assert_allclose(hidden(base, one), hidden(lora.merge(base, one)), atol=2e-5)


def test_only_the_last_adapter_drops_inputs():
    base, frozen = params(), adapter(1, dropout=0.5)
    plain = adapter(2)
    keys = lora.row_keys(jnp.uint32(0), jnp.int32(0), 2)
    np.testing.assert_array_equal(hidden(base, frozen, plain), hidden(base, frozen, plain, keys=keys))


def test_dropout_keeps_the_mean():
    x = jnp.ones((400, 50, 20))
    config = LoraConfig(20, 20.0, ("gate",), 0.25)
    pair = {"a": jnp.eye(20), "b": jnp.eye(20)}
    keys = lora.row_keys(jnp.uint32(0), jnp.int32(0), 400)
    active = lora.Active((Adapter({"layers": {"gate": pair}}, config),), keys)
    dropped = np.asarray(lora.add(jnp.zeros_like, x, "gate", active))
    assert set(np.unique(dropped).tolist()) == {0.0, float(np.float32(1) / np.float32(0.75))}
    assert dropped.mean() == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "lora.rank"),
        ({"alpha": 0.0}, "lora.alpha"),
        ({"alpha": float("nan")}, "lora.alpha"),
        ({"dropout": 1.0}, "lora.dropout"),
        ({"targets": ()}, "lora.targets"),
        ({"targets": ("query", "q_proj")}, "q_proj"),
        ({"targets": ("querry",)}, "did you mean 'query'"),
    ],
)
def test_settings_that_no_adapter_has_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        LoraConfig(**{"rank": 2, "alpha": 4.0, **fields})


def test_targets_have_one_order():
    assert LoraConfig(2, 4.0, ("down", "query")) == LoraConfig(2, 4.0, ("query", "down"))
