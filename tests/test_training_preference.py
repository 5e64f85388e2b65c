"""Preference optimisation: its formula, packed or not, on any mesh; its reference; and phases that are interrupted."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_loop import after, assert_same_bits, records
from test_training_loop import files as files  # a fixture
from test_training_lora import adapted, entries
from test_training_lora import base as base  # a fixture
from test_training_lora import build as build_lora
from test_training_step import OPTIMIZER, TINY, fresh_params

from msm_jax.checkpoints import store
from msm_jax.data.config import SourceConfig
from msm_jax.errors import InputError
from msm_jax.models import lora
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.models.presets import preset
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import loop, loss, metrics, objective, optimizer, program, state, step
from msm_jax.training.config import InitConfig
from msm_jax.training.objective import REFERENCE
from msm_jax.training.preference import Preference
from msm_jax.training.state import Frozen

ROWS, LENGTH, LOG_2 = 8, 32, float(np.log(2))
AHEAD, IN_STEP = Preference(), Preference(reference="base")
LORA = LoraConfig(3, 6.0, dropout=0.3)
FIELDS = ("tokens", "targets", "positions", "segment_ids")


def make_pairs(seed=0, rows=ROWS):
    """Packed pairs of different length with some padding: each answer after the same prompt."""
    rng = np.random.default_rng(seed)
    batch = {name: np.zeros((rows, LENGTH), np.int32) for name in FIELDS}
    batch["loss_mask"] = np.zeros((rows, LENGTH), bool)
    for row in range(rows):
        start, number = 0, 1
        while True:
            prompt = rng.integers(0, TINY.vocab_size, rng.integers(1, 5))
            answers = [rng.integers(0, TINY.vocab_size, rng.integers(1, 6)) for _ in range(2)]
            if start + sum(len(prompt) + len(each) - 1 for each in answers) > LENGTH:
                break
            for answer in answers:
                ids = np.concatenate([prompt, answer])
                here = slice(start, start + len(ids) - 1)
                batch["tokens"][row, here], batch["targets"][row, here] = ids[:-1], ids[1:]
                batch["positions"][row, here], batch["segment_ids"][row, here] = np.arange(len(ids) - 1), number
                batch["loss_mask"][row, here] = np.arange(len(ids) - 1) >= len(prompt) - 1
                start, number = here.stop, number + 1
    return batch


def of_weights(params, batch, below=()):
    """Log-probabilities of the targets of a batch, as a reference has them."""
    frozen = Frozen(params, below, jnp.uint32(0))
    return np.asarray(jax.jit(lambda f, b: objective.log_probabilities(f, TINY, b))(frozen, batch))


def brute_force(settings, ours, theirs, batch):
    """The loss and its metrics, one pair after another in float64."""
    found = {"loss": 0.0, "margin": 0.0, "accuracy": 0, "log_p_chosen": 0.0, "log_p_rejected": 0.0, "pairs": 0}
    for row in range(len(ours)):
        for number in range(1, int(batch["segment_ids"][row].max()) + 1, 2):
            sums, means, lengths = [], [], []
            for segment in (number, number + 1):
                here = (batch["segment_ids"][row] == segment) & batch["loss_mask"][row]
                sums.append([float(x[row][here].sum(dtype=np.float64)) for x in (ours, theirs)])
                lengths.append(int(here.sum()))
                means.append([value / lengths[-1] for value in sums[-1]])
            chosen, rejected = means if settings.per_token else sums
            h = settings.beta * ((chosen[0] - chosen[1]) - (rejected[0] - rejected[1]))
            found["loss"] += (1 - settings.label_smoothing) * np.log1p(np.exp(-h))
            found["loss"] += settings.label_smoothing * np.log1p(np.exp(h)) - settings.next_token * means[0][0]
            found["margin"] += h
            found["accuracy"] += h > 0
            found["log_p_chosen"] += sums[0][0]
            found["log_p_rejected"] += sums[1][0]
            found["pairs"] += 1
    ratio = np.where(batch["loss_mask"], ours - theirs, 0).astype(np.float64)
    return {**found, "kl": float((np.exp(ratio) - 1 - ratio).sum()), "loss_tokens": int(batch["loss_mask"].sum())}


@settings(max_examples=20)
@given(
    seed=st.integers(0, 99), beta=st.floats(0.01, 2.0), label_smoothing=st.floats(0.0, 0.4),
    next_token=st.sampled_from([0.0, 0.7]), per_token=st.booleans(),
)
def test_the_loss_is_the_formula_pair_by_pair(seed, beta, label_smoothing, next_token, per_token):
    batch = make_pairs(seed, rows=3)
    rng = np.random.default_rng(seed)
    drawn = -rng.exponential(1.0, (2, 3, LENGTH)).astype(np.float32)
    ours, theirs = np.where(batch["loss_mask"], drawn, 0)
    chosen = Preference(beta, label_smoothing, next_token, per_token)
    total, sums = chosen.of_log_probabilities(ours, theirs, batch["segment_ids"], batch["loss_mask"])
    expected = brute_force(chosen, ours, theirs, batch)
    assert float(total) == pytest.approx(expected.pop("loss"), rel=1e-4, abs=1e-4)
    assert sums.keys() == expected.keys() == {*chosen.counts, *chosen.means}
    for name, value in expected.items():
        assert float(sums[name]) == pytest.approx(value, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("shape", [None, (2, 2, 2)])
def test_losses_of_tokens_in_blocks_are_the_naive_ones_with_their_gradient(shape):
    batch, params = make_pairs(), fresh_params()
    hidden = jax.random.normal(jax.random.key(1), (ROWS, LENGTH, TINY.hidden_size))
    weights = jax.random.normal(jax.random.key(2), (ROWS, LENGTH))

    def value(hidden, params, most):
        each = loss.token_losses(params, TINY, hidden, batch["targets"], batch["loss_mask"], most)
        return jnp.sum(weights * each), each

    run = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True), static_argnums=2)
    expected = run(hidden, params, 2**30)
    total, _ = loss.cross_entropy(params, TINY, hidden, batch["targets"], batch["loss_mask"])
    assert float(expected[0][1].sum()) == pytest.approx(float(total), rel=1e-5)
    with jax.set_mesh(make_mesh(MeshConfig(*(shape or (1, 1, 1))))):
        got = run(hidden, params, 300)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(a).max()))


def test_packed_pairs_are_pairs_one_by_one():
    params, batch = fresh_params(), make_pairs()
    batch[REFERENCE] = of_weights(jax.tree.map(lambda leaf: leaf * 0.5, params), batch)
    run = jax.jit(lambda params, batch: AHEAD.loss_sum(params, TINY, batch))
    total, sums = run(params, batch)
    alone, pairs = 0.0, 0
    for row in range(ROWS):
        for number in range(1, int(batch["segment_ids"][row].max()) + 1, 2):
            # The pair at the start of a row of its own, and nothing but padding after it.
            one = {name: np.zeros((ROWS, LENGTH), value.dtype) for name, value in batch.items()}
            here = np.isin(batch["segment_ids"][row], (number, number + 1))
            for name, value in batch.items():
                one[name][0, : here.sum()] = value[row][here]
            one["segment_ids"][0, : here.sum()] -= number - 1
            part, counted = run(params, one)
            alone, pairs = alone + float(part), pairs + int(counted["pairs"])
    assert int(sums["pairs"]) == pairs > ROWS
    assert float(total) == pytest.approx(alone, rel=1e-5)
    assert abs(float(total) / pairs - LOG_2) > 1e-4


def build(mesh_config=MeshConfig(), micro_batches=1, chosen=IN_STEP, steps=2):  # noqa: B008 (frozen)
    """Metrics of a few steps, of an adapter with the reference in the step or of all weights, and what they trained."""
    mesh, tx = make_mesh(mesh_config), optimizer.make_optimizer(OPTIMIZER, 20)
    schedule = optimizer.schedule(OPTIMIZER, 20)
    params = fresh_params()
    frozen = None
    if chosen.needs_reference:
        current, adapter, target = state.create(TINY, tx, mesh, jax.random.key(1)), None, None
    else:
        # The adapter below has dropout in its settings as well: it is frozen, and stays as it is.
        below = Adapter(jax.tree.map(lambda x: x + 0.05, lora.init_weights(LORA, TINY, jax.random.key(9))), LORA)
        _, _, frozen, _, _ = build_lora(mesh_config, adapter=LORA, below=(below,))
        target = state.abstract_frozen(TINY, mesh, "float32", [LORA])
        current, adapter = state.create(TINY, tx, mesh, jax.random.key(1), LORA), LORA
    take = step.make_train_step(TINY, tx, schedule, mesh, micro_batches, adapter, target, chosen)
    found = []
    for number in range(steps):
        batch = make_pairs(number)
        if chosen.needs_reference:
            batch[REFERENCE] = of_weights(params, batch)
        with jax.set_mesh(mesh):
            current, now = take(current, batch, frozen)
        found.append({name: float(value) for name, value in now.items()})
    return found, jax.device_get(current.params)


@pytest.fixture(scope="module")
def one_device():
    return {chosen: build(chosen=chosen) for chosen in (AHEAD, IN_STEP)}


@pytest.mark.parametrize("chosen", [AHEAD, IN_STEP], ids=["ahead", "in_step"])
def test_eight_devices_and_micro_batches_do_not_change_a_step(one_device, chosen):
    expected, weights = one_device[chosen]
    got, other = build(MeshConfig(2, 2, 2), 2, chosen)
    for number, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert a.keys() == b.keys()
        # In the first step the model is its reference, and rounding decides which answer it prefers.
        for name in a.keys() - ({"accuracy"} if number == 0 else set()):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-5), name
    for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_fresh_adapter_starts_at_log_2_with_dropout_and_an_adapter_below(one_device):
    first, last = one_device[IN_STEP][0]
    assert first["loss"] == pytest.approx(LOG_2, abs=1e-6)
    assert abs(first["margin"]) < 1e-6
    assert first["grad_norm"] > 0
    assert last["loss"] != pytest.approx(LOG_2, abs=1e-6)


def test_a_reference_in_the_step_costs_a_forward_pass():
    forward = metrics.flops_per_token(TINY, 8.0) / 3
    plain = metrics.flops_per_token(TINY, 8.0, LORA)
    assert metrics.flops_per_token(TINY, 8.0, LORA, (), IN_STEP.forwards) == pytest.approx(plain + forward)
    assert AHEAD.forwards == 0


def compiled_bytes(model, rows, length, adapter, chosen):
    """Returns what a compiled step holds, in bytes: its arguments and its temporary arrays."""
    found = program.TrainProgram(model, OPTIMIZER, 20, rows, length, adapter=adapter, objective=chosen)
    held = program.trace(found, make_mesh(MeshConfig())).lower().compile().memory_analysis()
    return held.argument_size_in_bytes + held.temp_size_in_bytes


def test_a_reference_in_the_step_needs_at_most_a_tenth_more_memory():
    model = dataclasses.replace(TINY, num_layers=4, vocab_size=512, hidden_size=64, intermediate_size=256)
    plain, preferring = (compiled_bytes(model, 16, 128, LORA, each) for each in (objective.NEXT_TOKEN, IN_STEP))
    assert preferring <= 1.1 * plain


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "remat"), [("bfloat16", "full"), ("float32", "none")])
def test_so_does_smollm2_whose_logits_are_computed_in_blocks(dtype, remat):
    model = preset("smollm2-135m", compute_dtype=dtype, remat=remat)
    how = LoraConfig(8, 16.0)
    plain, preferring = (compiled_bytes(model, 4, 512, how, each) for each in (objective.NEXT_TOKEN, IN_STEP))
    print(f"memory: SmolLM2, {dtype}, remat {remat}: {plain / 2**20:.0f} MiB, with DPO {preferring / 2**20:.0f} MiB")
    assert preferring <= 1.1 * plain


# Phases.


@pytest.fixture(scope="module")
def paired(files, tiny_corpus):
    """Data of pairs, as changes of a phase."""
    lines = [
        {"messages": [{"role": "user", "content": text[:12]}], "chosen": text[12:20] or "a", "rejected": text[-6:]}
        for text in tiny_corpus[:60]
    ]
    (files / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources = {"pairs": SourceConfig(str(files / "pairs.jsonl"), "pairs", 0.1, "drop")}
    return {"seq_len": 96, "sources": sources, "weights": {"pairs": 1.0}}


def preferring(files, checkpoint, paired, workdir, **changes):
    data = {**paired, "cache_dir": str(workdir / "cache")}
    return after(files, checkpoint, data=data, **{"dpo": AHEAD, "steps": 4, "checkpoint_every": 2, **changes})


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def killed(config, workdir, at):
    def stop(progress):
        if progress.get("step") == at:
            raise Killed

    with pytest.raises(Killed):
        loop.train(config, workdir, stop)


@pytest.fixture(scope="module")
def runs(files, base, paired, tmp_path_factory):
    """A directory with a run (whole), one that was killed (killed), their parent (parent) and their cache (cache)."""
    root = tmp_path_factory.mktemp("preferring")
    shutil.copytree(base.parent.parent, root / "parent")
    config = preferring(files, root / "parent", paired, root)
    loop.train(config, root / "whole")
    killed(config, root / "killed", 3)
    return root, config


def test_a_phase_starts_at_log_2_and_records_what_the_objective_says(runs):
    lines = records(runs[0] / "whole")
    steps = [line for line in lines if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(LOG_2, abs=1e-5)
    assert steps[-1]["loss"] < LOG_2
    assert steps[-1]["kl"] > 0
    assert {*AHEAD.counts, *AHEAD.means} <= steps[0].keys()
    held = [line for line in lines if "holdout_loss" in line]
    assert [line["step"] for line in held] == [4]
    assert 0 <= held[-1]["holdout_accuracy"]["pairs"] <= 1
    assert len(list((runs[0] / "cache").glob("reference-*"))) == 1


@pytest.mark.parametrize("missing", ["parent", "cache"])
def test_a_killed_phase_goes_on_to_the_same_bits_without_its_parent_or_without_its_cache(runs, missing, tmp_path):
    root, config = runs
    workdir = shutil.copytree(root / "killed", tmp_path / "killed")
    shutil.move(root / missing, tmp_path / missing)
    try:
        again = loop.train(config, workdir).checkpoint
    finally:
        shutil.rmtree(root / missing, ignore_errors=True)
        shutil.move(tmp_path / missing, root / missing)
    whole = store.latest(root / "whole")
    assert_same_bits(whole, again)
    assert records(workdir) == records(root / "whole")
    assert store.read_info(again)["reference"] == store.read_info(whole)["reference"]


def test_another_parent_does_not_stand_in_for_the_reference(runs, files, base, tmp_path):
    root, config = runs
    other = loop.train(after(files, base, steps=1, eval_every=0), tmp_path / "other").checkpoint
    changed = dataclasses.replace(
        config, init=InitConfig("params", str(other)), data=dataclasses.replace(config.data, cache_dir=str(tmp_path))
    )
    workdir = shutil.copytree(root / "killed", tmp_path / "killed")
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace(str(root / "parent"), str(other)))
    with pytest.raises(InputError, match="it has changed since the run"):
        loop.train(changed, workdir)


@pytest.mark.parametrize("chosen", [AHEAD, IN_STEP], ids=["ahead", "in_step"])
def test_an_adapter_starts_at_log_2_and_goes_on_to_the_same_bits(files, base, paired, chosen, tmp_path):
    data = {**paired, "cache_dir": str(tmp_path / "cache")}
    config = adapted(files, base, data=data, dpo=chosen, lora=LORA, steps=3, checkpoint_every=1, log_every=1)
    whole = loop.train(config, tmp_path / "whole").checkpoint
    first = next(line for line in records(tmp_path / "whole") if "loss" in line)
    assert first["loss"] == pytest.approx(LOG_2, abs=1e-5)
    killed(config, tmp_path / "killed", 2)
    again = loop.train(config, tmp_path / "killed").checkpoint
    names = ("adapter", "opt_state", "step")
    ours, theirs = entries(whole, *names), entries(again, *names)
    assert {name: each.tobytes() for name, each in ours.items()} == {n: each.tobytes() for n, each in theirs.items()}


def test_an_adapter_that_is_trained_further_is_part_of_its_reference(files, base, paired, tmp_path):
    first = loop.train(adapted(files, base, steps=3), tmp_path / "first").checkpoint
    config = adapted(files, first, data={**paired, "cache_dir": str(tmp_path)}, dpo=AHEAD, steps=1, log_every=1)
    loop.train(config, tmp_path / "second")
    (line,) = (line for line in records(tmp_path / "second") if "loss" in line)
    assert line["loss"] == pytest.approx(LOG_2, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dpo": None}, r'data.sources.pairs.kind = "pairs", but the phase reads documents and chats: set dpo'),
        ({"dpo": IN_STEP}, r'dpo.reference = "base" needs lora'),
        ({"z_loss": 0.1}, "z_loss = 0.1, but dpo has no such term"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(files, paired, changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        preferring(files, tmp_path, paired, tmp_path, **changes)


def test_pairs_are_needed_and_values_are_bounded(files, tmp_path):
    with pytest.raises(InputError, match='kind = "documents", but the phase reads pairs: dpo is set'):
        after(files, tmp_path, dpo=AHEAD)
    for name, value in (("beta", 0.0), ("label_smoothing", 0.5), ("next_token", -1.0)):
        with pytest.raises(InputError, match=f"{name} = {value}"):
            Preference(**{name: value})
