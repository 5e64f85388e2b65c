"""Phases with an adapter: what they train, save, resume and hand on, and which bases they refuse."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_checkpoints_peft import merged_params
from test_training_loop import after, phase, records
from test_training_loop import files as files  # a fixture
from test_training_step import OPTIMIZER, TINY, make_batch

from msm_jax.checkpoints import compose, store
from msm_jax.checkpoints.digest import digest
from msm_jax.errors import InputError
from msm_jax.models import lora, transformer
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.sampling.engine import Engine
from msm_jax.training import loop, metrics, optimizer, state, step
from msm_jax.training.config import InitConfig
from msm_jax.training.objective import NEXT_TOKEN

LORA = LoraConfig(3, 6.0)
DROPPED = dataclasses.replace(LORA, dropout=0.3)


# One step.


def build(mesh_config=MeshConfig(), micro_batches=1, adapter=LORA, below=(), dtype="float32"):  # noqa: B008 (frozen)
    """A mesh, a state with `b` away from zero, what is frozen, the step and the evaluation step."""
    mesh = make_mesh(mesh_config)
    tx = optimizer.make_optimizer(OPTIMIZER, 20)
    target = state.abstract_frozen(TINY, mesh, dtype, [each.config for each in below])
    base = jax.jit(lambda key: transformer.init_params(TINY, key))(jax.random.key(0))
    base = jax.tree.map(lambda leaf, want: jax.device_put(leaf.astype(want.dtype), want.sharding), base, target.params)
    frozen = state.freeze(base, below, 11, mesh)
    weights = jax.tree.map(lambda x: x + 0.05, lora.init_weights(adapter, TINY, jax.random.key(3)))
    weights = jax.device_put(weights, state.shardings(TINY, tx, mesh, adapter).params)
    with jax.set_mesh(mesh):
        fresh = state.from_params(weights, TINY, tx, mesh, adapter)
    schedule = optimizer.schedule(OPTIMIZER, 20)
    take = step.make_train_step(TINY, tx, schedule, mesh, micro_batches, adapter, target)
    return mesh, fresh, frozen, take, step.make_eval_step(TINY, mesh, adapter, target)


def run(steps=4, **options):
    mesh, current, frozen, take, _ = build(**options)
    found = []
    with jax.set_mesh(mesh):
        for number in range(steps):
            current, now = take(current, make_batch(number), frozen)
            found.append({name: float(value) for name, value in now.items()})
    return found, jax.device_get(current.params)


@pytest.fixture(scope="module")
def one_device():
    return run(adapter=DROPPED)


@pytest.mark.parametrize("options", [{"mesh_config": MeshConfig(1, 4, 2)}, {"micro_batches": 4}])
def test_mesh_and_micro_batches_do_not_change_a_step_with_dropout(one_device, options):
    expected, weights = one_device
    got, other = run(adapter=DROPPED, **options)
    for a, b in zip(expected, got, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
    for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dropout_is_in_the_training_loss_alone(one_device):
    plain, _ = run()
    assert abs(plain[0]["loss"] - one_device[0][0]["loss"]) > 1e-4
    mesh, fresh, frozen, _, evaluate = build(adapter=DROPPED)
    with jax.set_mesh(mesh):
        total, sums = evaluate(fresh.params, make_batch(0), frozen)
    assert float(total / sums["loss_tokens"]) == pytest.approx(plain[0]["loss"], rel=1e-5)


def test_the_gradient_is_that_of_the_merged_model():
    """By the chain rule, from the gradient of the matrices: for `b`, scale · aᵀ dW."""
    _, fresh, frozen, _, _ = build()
    batch = make_batch()
    _, _, grads = jax.jit(lambda p, f: step.gradients(p, TINY, batch, 1, LORA, f))(fresh.params, frozen)
    whole = lora.merge(frozen.params, Adapter(fresh.params, LORA))
    _, _, matrices = jax.jit(lambda p: step.gradients(p, TINY, batch, 1))(whole)
    for target in LORA.targets:
        pair = fresh.params["layers"][target]
        inputs, outputs = lora.sizes(TINY, target)
        matrix = matrices["layers"][target].reshape(TINY.num_layers, inputs, outputs)
        of_b = LORA.scale * jnp.einsum("lir,lio->lro", pair["a"], matrix)
        of_a = LORA.scale * jnp.einsum("lio,lro->lir", matrix, pair["b"])
        np.testing.assert_allclose(grads["layers"][target]["b"], of_b, atol=1e-4, rtol=1e-3)
        np.testing.assert_allclose(grads["layers"][target]["a"], of_a, atol=1e-4, rtol=1e-3)


def test_the_base_costs_no_gradient_and_no_optimizer_state():
    model = dataclasses.replace(TINY, num_layers=8, hidden_size=128, intermediate_size=512, remat="full")
    mesh, tx, small = make_mesh(MeshConfig()), optimizer.make_optimizer(OPTIMIZER, 20), LoraConfig(1, 1.0)
    schedule = optimizer.schedule(OPTIMIZER, 20)
    frozen = state.abstract_frozen(model, mesh, "float32", ())
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(frozen.params))
    batch = make_batch(rows=1)
    with jax.set_mesh(mesh):
        full = step.make_train_step(model, tx, schedule, mesh).lower(state.abstract(model, tx, mesh), batch, None)
        thin = step.make_train_step(model, tx, schedule, mesh, 1, small, frozen).lower(
            state.abstract(model, tx, mesh, small), batch, frozen
        )
    full, thin = full.compile().memory_analysis(), thin.compile().memory_analysis()
    assert full.temp_size_in_bytes > size  # the gradient, which this test is about
    assert thin.temp_size_in_bytes < 0.6 * size
    assert thin.output_size_in_bytes < 0.1 * size
    moments = jax.tree.leaves(state.abstract(model, tx, mesh, small).opt_state)
    assert sum(leaf.size for leaf in moments) <= 2 * lora.count_weights(small, model) + 8


def test_a_frozen_adapter_below_counts_and_stays():
    config = LoraConfig(2, 2.0, ("query", "down"))
    below = Adapter(jax.tree.map(lambda x: x + 0.1, lora.init_weights(config, TINY, jax.random.key(9))), config)
    expected, _ = run()
    got, _ = run(below=(below,))
    assert abs(got[0]["loss"] - expected[0]["loss"]) > 1e-3
    mesh, fresh, frozen, _, evaluate = build(below=(below,))
    with jax.set_mesh(mesh):
        total, sums = evaluate(fresh.params, make_batch(0), frozen)
    merged = lora.merge(frozen.params, below)
    merged = lora.merge(merged, Adapter(fresh.params, LORA))
    again, _ = NEXT_TOKEN.loss_sum(merged, TINY, make_batch(0))
    assert float(total) == pytest.approx(float(again), rel=1e-5)
    assert got[0]["loss"] == pytest.approx(float(total / sums["loss_tokens"]), rel=1e-5)


def test_flops_count_a_frozen_matrix_twice():
    full = metrics.flops_per_token(TINY, 8.0)
    weights = transformer.forward_flops_per_token(TINY, 0.0)
    own = 2 * lora.count_weights(LORA, TINY)
    assert metrics.flops_per_token(TINY, 8.0, LORA) == pytest.approx(full - weights + 3 * own)
    assert metrics.flops_per_token(TINY, 8.0, LORA, (LORA,)) == pytest.approx(full - weights + 5 * own)


# Phases.


def adapted(files, checkpoint, mode="params", **changes):
    values = {"lora": LORA, "base_dtype": "float32", "name": "adapted", "eval_every": 0}
    return after(files, checkpoint, mode, **(values | changes))


@pytest.fixture(scope="module")
def base(files, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("base")
    return loop.train(phase(files, steps=3, eval_every=0), workdir).checkpoint


@pytest.fixture(scope="module")
def first(files, base, tmp_path_factory):
    """A phase with an adapter, on the base."""
    workdir = tmp_path_factory.mktemp("first")
    return loop.train(adapted(files, base, lora=DROPPED, eval_every=4), workdir).checkpoint


def entries(path, *names):
    """Arrays of a checkpoint by name."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def target(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    tree = {name: jax.tree.map(target, store.ocp.metadata(path.absolute(), name).metadata) for name in names}
    return {
        jax.tree_util.keystr(key): np.asarray(leaf)
        for key, leaf in jax.tree_util.tree_flatten_with_path(store.load(path, tree))[0]
    }


def scores(*args, **options):
    """Log-probabilities of a few continuations."""
    engine = Engine.from_checkpoint(*args, **options)
    return engine.score([[1, 5, 9], [1, 70]], [[30, 31, 32], [8]])


def test_an_adapter_checkpoint_holds_the_adapter_and_names_its_base(first, base):
    assert {p.name for p in first.iterdir() if p.is_dir()} >= {"adapter", "opt_state", "step"}
    assert not (first / "params").exists()
    info = store.read_info(first)
    assert info["base"]["path"] == str(base)
    assert info["base"]["digests"].keys() >= {"embedding", "layers.query", "final_norm"}
    assert info["adapters"][0]["config"]["rank"] == 3
    assert info["trained_parameters"] == lora.count_weights(LORA, compose.find(first).model)
    assert store.read_assets(first) == store.read_assets(base)


def test_a_phase_moves_the_adapter_and_records_what_others_do(first, base):
    lines = records(first.parent.parent)
    assert all(line["grad_norm"] > 0 for line in lines if "loss" in line)
    assert [line["step"] for line in lines if "holdout_loss" in line] == [4, 8, 9]
    assert not np.allclose(scores(first), scores(base))


def test_a_killed_phase_continues_to_the_same_bits(files, base, first, tmp_path):
    config = adapted(files, base, lora=DROPPED, eval_every=4, checkpoint_every=4)
    loop.train(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "9")
    (tmp_path / "result.json").unlink()
    result = loop.train(config, tmp_path)
    one, two = (entries(path, "adapter", "opt_state", "step") for path in (first, result.checkpoint))
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert records(tmp_path) == records(first.parent.parent)


def test_beside_base_named_and_merged_are_one_model(first, base):
    found = compose.find(first)
    mesh = make_mesh(MeshConfig())
    merged = Engine(merged_params(found, mesh), found.model, *_text(first))
    expected = merged.score([[1, 5, 9], [1, 70]], [[30, 31, 32], [8]])
    np.testing.assert_allclose(scores(first), expected, atol=1e-4)
    np.testing.assert_allclose(scores(base, adapter=first), expected, atol=1e-4)
    np.testing.assert_allclose(scores(first, MeshConfig(1, 2, 2)), expected, atol=1e-4)


def _text(path):
    engine = Engine.from_checkpoint(path)
    return engine.tokenizer, engine.template


def test_continue_trains_the_same_adapter(files, first, base, tmp_path):
    config = adapted(files, first, steps=1, optimizer={"learning_rate": 0.0, "warmup_steps": 0, "weight_decay": 0.0})
    second = loop.train(config, tmp_path / "second").checkpoint
    one, two = entries(first, "adapter"), entries(second, "adapter")
    assert all(np.array_equal(one[name], two[name]) for name in one)
    info = store.read_info(second)
    assert (info["base"]["path"], len(info["adapters"])) == (str(base), 1)
    for wrong in (LoraConfig(2, 4.0), LoraConfig(3, 3.0), LoraConfig(3, 6.0, ("query",))):
        with pytest.raises(InputError, match=r"lora\.(rank|alpha|targets) = .*stack"):
            loop.train(adapted(files, first, lora=wrong), tmp_path / "wrong")


def test_a_full_state_counts_on(files, base, tmp_path):
    half = loop.train(adapted(files, base, steps=5, optimizer={"schedule": "constant"}), tmp_path / "half").checkpoint
    config = adapted(files, half, "state", steps=9, optimizer={"schedule": "constant"})
    rest = loop.train(config, tmp_path / "rest")
    assert rest.steps == 4
    whole = loop.train(adapted(files, base, optimizer={"schedule": "constant"}), tmp_path / "whole").checkpoint
    one, two = (entries(path, "adapter", "opt_state") for path in (whole, rest.checkpoint))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("how", ["stack", "merge"])
def test_a_fresh_adapter_on_top_starts_where_the_last_one_ended(files, first, base, tmp_path, how):
    other = LoraConfig(2, 2.0, ("value", "gate"))
    still = {"learning_rate": 0.0, "warmup_steps": 0}
    config = adapted(files, first, adapter=how, lora=other, steps=1, optimizer=still)
    second = loop.train(config, tmp_path / "second").checkpoint
    info = store.read_info(second)
    assert info["base"]["path"] == str(base)
    assert [each["merged"] for each in info["adapters"]] == [how == "merge", False]
    np.testing.assert_allclose(scores(second), scores(first), atol=1e-4)
    # A third one finds both.
    third = loop.train(adapted(files, second, adapter="stack", steps=3), tmp_path / "third").checkpoint
    assert len(store.read_info(third)["adapters"]) == 3
    found = compose.find(third)
    merged = Engine(merged_params(found, make_mesh(MeshConfig())), found.model, *_text(third))
    expected = merged.score([[1, 5, 9], [1, 70]], [[30, 31, 32], [8]])
    np.testing.assert_allclose(scores(third), expected, atol=1e-4)
    assert not np.allclose(scores(third), scores(second))


def test_all_weights_can_be_trained_from_base_and_adapter(files, first, tmp_path):
    still = {"learning_rate": 0.0, "warmup_steps": 0}
    config = after(files, first, steps=1, adapter="merge", optimizer=still, eval_every=0)
    full = loop.train(config, tmp_path / "full").checkpoint
    assert (full / "params").is_dir()
    assert "base" not in store.read_info(full)
    np.testing.assert_allclose(scores(full), scores(first), atol=1e-4)
    with pytest.raises(InputError, match=r'holds an adapter.*adapter = "merge"'):
        loop.train(after(files, first), tmp_path / "refused")


def test_a_base_in_bfloat16_is_used_as_it_was_in_training(files, base, tmp_path):
    path = loop.train(adapted(files, base, base_dtype="bfloat16"), tmp_path).checkpoint
    assert store.read_info(path)["base"]["dtype"] == "bfloat16"
    # The digest does not depend on the dtype.
    exact = loop.train(adapted(files, base, steps=1), tmp_path / "exact").checkpoint
    assert store.read_info(path)["base"]["digests"] == store.read_info(exact)["base"]["digests"]
    params, _ = compose.load(compose.find(path), make_mesh(MeshConfig()))
    whole, _ = compose.load(compose.find(base), make_mesh(MeshConfig()))
    rounded = whole["layers"]["query"].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(params["layers"]["query"], rounded)
    np.testing.assert_array_equal(params["final_norm"], whole["final_norm"])


def test_a_base_that_moved_is_found_beside_or_named(files, tmp_path):
    base = loop.train(phase(files, steps=1, eval_every=0), tmp_path / "all" / "base").checkpoint
    path = loop.train(adapted(files, base, steps=2), tmp_path / "all" / "first").checkpoint
    expected = scores(path)
    shutil.move(tmp_path / "all", tmp_path / "moved")
    path = tmp_path / "moved" / "first" / "checkpoints" / "2"
    np.testing.assert_array_equal(scores(path), expected)
    shutil.move(tmp_path / "moved" / "base", tmp_path / "away")
    with pytest.raises(InputError, match=r"its base .* does not exist; if it has moved, pass --checkpoint=BASE"):
        scores(path)
    np.testing.assert_array_equal(scores(tmp_path / "away", adapter=path), expected)
    config = adapted(files, path)
    config = dataclasses.replace(config, init=InitConfig("params", str(path), str(tmp_path / "away")))
    again = loop.train(config, tmp_path / "again").checkpoint
    assert store.read_info(again)["base"]["path"] == str(tmp_path / "away" / "checkpoints" / "1")


def test_another_base_is_refused_with_the_tensor(files, first, base, tmp_path):
    other = loop.train(phase(files, steps=2, seed=6, eval_every=0), tmp_path / "other").checkpoint
    with pytest.raises(InputError, match=r"not trained on the base .*other.*: tensor embedding differs") as error:
        Engine.from_checkpoint(other, adapter=first)
    assert str(first) in str(error.value)
    assert "\n" not in str(error.value)
    wide = phase(files, steps=1, eval_every=0, model_overrides={"hidden_size": 24, "num_layers": 2, "vocab_size": 512})
    wide = loop.train(wide, tmp_path / "wide").checkpoint
    with pytest.raises(InputError, match=r"its adapter is for a model with hidden_size = 16"):
        Engine.from_checkpoint(wide, adapter=first)
    with pytest.raises(InputError, match="holds an adapter, not a base"):
        Engine.from_checkpoint(first, adapter=first)
    with pytest.raises(InputError, match="holds no adapter"):
        Engine.from_checkpoint(base, adapter=base)


def test_what_contradicts_itself_is_refused(files, base, first, tmp_path):
    with pytest.raises(InputError, match="lora is set, but a phase from scratch"):
        phase(files, lora=LORA)
    with pytest.raises(InputError, match='adapter = "stack" needs lora'):
        after(files, base, adapter="stack")
    with pytest.raises(InputError, match=r'init.mode = "state".*adapter = "merge"'):
        adapted(files, first, "state", adapter="merge")
    with pytest.raises(InputError, match="holds no adapter whose state"):
        loop.train(adapted(files, base, "state", steps=20), tmp_path / "a")
    twice = dataclasses.replace(adapted(files, base), init=InitConfig("params", str(base), str(base)))
    with pytest.raises(InputError, match=r"init.base is set, but .* holds no adapter"):
        loop.train(twice, tmp_path / "b")
    loop.train(adapted(files, base, steps=1), tmp_path / "c")
    with pytest.raises(InputError, match=r"trains an adapter, but config.lora = None"):
        loop.train(after(files, base, name="adapted", steps=2), tmp_path / "c")
    stored = json.loads((tmp_path / "c" / "config.json").read_text())
    assert stored["lora"]["rank"] == 3


def test_a_digest_does_not_depend_on_the_mesh_and_sees_places_and_values():
    params = {"a": jnp.arange(64.0).reshape(8, 8), "layers": {"b": jnp.ones((4, 4))}}
    found = digest(params)
    mesh = make_mesh(MeshConfig(1, 2, 2))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "tensor"))
    assert digest(jax.device_put(params, where)) == found
    assert digest(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)) == found
    assert digest({**params, "a": params["a"].T})["a"] != found["a"]
    swapped = params["a"].at[0, 0].set(1.0).at[0, 1].set(0.0)
    assert digest({**params, "a": swapped})["a"] != found["a"]
    assert digest({**params, "a": params["a"].at[3, 3].add(1.0)})["a"] != found["a"]
    assert optax.tree.size(params) == 80
