"""One step: the same on any mesh, in any micro-batches, packed or not, and with the loss in blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import optimizer, state, step
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.objective import NEXT_TOKEN

TINY = ModelConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
    qk_norm=True,
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=2)
ROWS, LENGTH = 8, 16


def make_batch(seed=0, rows=ROWS):
    """Ragged documents packed into rows, some padding, a random loss mask."""
    rng = np.random.default_rng(seed)
    batch = {k: np.zeros((rows, LENGTH), np.int32) for k in ("tokens", "targets", "positions", "segment_ids")}
    batch["loss_mask"] = np.zeros((rows, LENGTH), bool)
    for row in range(rows):
        start, number = 0, 1
        while start < LENGTH - 2 and rng.random() < 0.9:
            n = int(rng.integers(1, LENGTH - start))
            ids = rng.integers(0, TINY.vocab_size, n + 1)
            here = slice(start, start + n)
            batch["tokens"][row, here], batch["targets"][row, here] = ids[:-1], ids[1:]
            batch["positions"][row, here], batch["segment_ids"][row, here] = np.arange(n), number
            batch["loss_mask"][row, here] = rng.random(n) < 0.7
            start, number = start + n, number + 1
    return batch


@functools.cache
def fresh_params():
    return jax.jit(lambda key: transformer.init_params(TINY, key))(jax.random.key(0))


def build(mesh_config, micro_batches=1, model=TINY):
    mesh = make_mesh(mesh_config)
    tx = optimizer.make_optimizer(OPTIMIZER, 20)
    schedule = optimizer.schedule(OPTIMIZER, 20)
    fresh = state.create(model, tx, mesh, jax.random.key(0))
    return mesh, fresh, step.make_train_step(model, tx, schedule, mesh, micro_batches)


def losses(mesh_config, steps, micro_batches=1):
    mesh, current, train_step = build(mesh_config, micro_batches)
    out = []
    with jax.set_mesh(mesh):
        for number in range(steps):
            current, metrics = train_step(current, make_batch(number), None)
            out.append({name: float(value) for name, value in metrics.items()})
    return out, jax.device_get(current.params)


@pytest.fixture(scope="module")
def one_device():
    return losses(MeshConfig(), 10)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_any_mesh_gives_the_loss_of_one_device(one_device, shape):
    expected, _ = one_device
    got, _ = losses(MeshConfig(*shape), 10)
    assert got[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-5)
    assert got[0]["grad_norm"] == pytest.approx(expected[0]["grad_norm"], rel=1e-5)
    assert got[9]["loss"] == pytest.approx(expected[9]["loss"], rel=1e-4)


def test_any_mesh_gives_the_gradient_of_one_device():
    params = fresh_params()
    batch = make_batch()
    grad = jax.jit(lambda params, batch: step.gradients(params, TINY, batch, 1))
    _, _, expected = grad(params, batch)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    where = state.shardings(TINY, optimizer.make_optimizer(OPTIMIZER, 20), mesh).params
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, where)
        _, _, got = jax.jit(lambda params, batch: step.gradients(params, TINY, batch, 1))(sharded, batch)
    scale = float(optax.tree.norm(expected))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5 * scale)


def test_parameters_and_moments_are_really_sharded():
    _, current, _ = build(MeshConfig(2, 2, 2))
    gate = current.params["layers"]["gate"]
    assert gate.addressable_shards[0].data.shape == (2, 16, 24)
    moments = [leaf for leaf in jax.tree.leaves(current.opt_state) if leaf.shape == gate.shape]
    assert len(moments) == 4  # two each for gate and up
    assert all(leaf.sharding == gate.sharding for leaf in moments)


def test_micro_batches_do_not_change_the_step(one_device):
    expected, expected_params = one_device
    got, params = losses(MeshConfig(), 10, micro_batches=4)
    assert got[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-6)
    assert got[0]["loss_tokens"] == expected[0]["loss_tokens"]
    for a, b in zip(jax.tree.leaves(expected_params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_micro_batches_on_a_mesh(one_device):
    got, _ = losses(MeshConfig(2, 1, 1), 3, micro_batches=2)
    assert got[2]["loss"] == pytest.approx(one_device[0][2]["loss"], rel=1e-5)


def test_packed_loss_is_the_token_weighted_loss_of_its_documents():
    params = fresh_params()
    batch = make_batch()
    loss_of = jax.jit(lambda params, batch: NEXT_TOKEN.loss_sum(params, TINY, batch))
    total, count = loss_of(params, batch)
    alone, tokens = 0.0, 0
    for row in range(ROWS):
        for number in range(1, batch["segment_ids"][row].max() + 1):
            here = batch["segment_ids"][row] == number
            # The document at the start of a row of its own, and nothing but padding after it.
            document = {name: np.zeros((1, LENGTH), value.dtype) for name, value in batch.items()}
            for name, value in batch.items():
                document[name][0, : here.sum()] = 1 if name == "segment_ids" else value[row][here]
            part, n = loss_of(params, document)
            alone, tokens = alone + float(part), tokens + int(n["loss_tokens"])
    assert int(count["loss_tokens"]) == tokens == batch["loss_mask"].sum()
    assert float(total) == pytest.approx(alone, rel=1e-5)


def test_loss_against_a_brute_force_sum():
    params = fresh_params()
    batch = make_batch()
    @jax.jit
    def scored(params):
        hidden = transformer.apply(params, TINY, batch["tokens"], batch["positions"], batch["segment_ids"])
        return transformer.logits(params, TINY, hidden), NEXT_TOKEN.loss_sum(params, TINY, batch)

    scores, (total, count) = scored(params)
    scores = np.asarray(scores, np.float64)
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    assert float(total) == pytest.approx(-picked[batch["loss_mask"]].sum(), rel=1e-5)
    assert int(count["loss_tokens"]) == batch["loss_mask"].sum()


def test_a_batch_without_loss_tokens_changes_nothing_but_decay():
    mesh, current, train_step = build(MeshConfig())
    batch = make_batch() | {"loss_mask": np.zeros((ROWS, LENGTH), bool)}
    with jax.set_mesh(mesh):
        after, metrics = train_step(current, batch, None)
    assert float(metrics["loss"]) == 0.0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after.params))


def test_norms_are_not_decayed_and_matrices_are():
    config = OptimizerConfig(learning_rate=1e-2, schedule="constant", weight_decay=0.5)
    tx = optimizer.make_optimizer(config, 10)
    params = fresh_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    assert float(jnp.abs(updates["layers"]["attention_norm"]).max()) == 0.0
    assert float(jnp.abs(updates["layers"]["key_norm"]).max()) == 0.0
    np.testing.assert_allclose(updates["embedding"], -1e-2 * 0.5 * params["embedding"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_schedules(kind):
    config = OptimizerConfig(learning_rate=1.0, schedule=kind, warmup_steps=4, final_fraction=0.1)
    rate = optimizer.schedule(config, 20)
    np.testing.assert_allclose([float(rate(s)) for s in range(4)], [0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    assert float(rate(4)) == pytest.approx(1.0)
    assert float(rate(20)) == pytest.approx(0.1 if kind == "cosine" else 1.0)
    assert float(rate(12)) == pytest.approx(0.55 if kind == "cosine" else 1.0)
