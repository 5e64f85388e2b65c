"""Checkpoints of chosen steps: each is what a run stopped there would have, and a finished run makes up for them."""

import dataclasses
import hashlib
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from test_training_loop import Killed, after, assert_same_bits, leaves, phase, records, steps_in
from test_training_loop import files as files  # a fixture
from test_training_lora import LORA, adapted

from msm_jax.checkpoints import store
from msm_jax.data.config import SourceConfig
from msm_jax.errors import InputError, Preempted
from msm_jax.training import loop

STEPS = 9
TIMINGS = {"wall_seconds", "step_seconds"}


def kept(files, *steps, **changes):
    return phase(files, **{"steps": STEPS, "eval_every": 4, "checkpoint_every": 4, "keep_steps": steps} | changes)


def stopped(config, workdir, step):
    """The checkpoint of a run that a signal stops after `step` steps."""

    def report(progress):
        # The report of a step arrives while the next one runs, after which the run stops, if nothing is saved between.
        if progress.get("step") == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        loop.train(config, workdir, report)
    return store.latest(workdir)


def info(path):
    found = store.read_info(path)
    found["totals"] = {name: value for name, value in found["totals"].items() if name not in TIMINGS}
    return found


def contents(workdir, *without):
    """sha256 of every file of a run but those of the checkpoints of some steps."""
    found = {path.relative_to(workdir): path for path in sorted(workdir.rglob("*")) if path.is_file()}
    skipped = [("checkpoints", str(step)) for step in without]
    return {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if name.parts[:2] not in skipped and name.parts[0] != "cache"
    }


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """A run that keeps two steps."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(kept(files, 3, 6), workdir)


@pytest.mark.parametrize("step", [3, 6])
def test_a_kept_step_is_what_a_run_stopped_there_has(whole, files, tmp_path, step):
    path = store.at_step(whole[0], step)
    other = stopped(kept(files, checkpoint_every=0), tmp_path, step)
    assert other.name == str(step)
    assert_same_bits(path, other)
    assert info(path) == info(other) and store.read_assets(path) == store.read_assets(other)


def test_kept_steps_stay_beside_the_newest_checkpoints(whole):
    workdir, result = whole
    assert store.all_steps(workdir) == [3, 6, 8, 9]
    assert result.checkpoint == store.latest(workdir) == store.at_step(workdir, 9)
    assert store.at_step(workdir, 4) is None


def test_a_phase_starts_from_a_kept_step(whole, files, tmp_path):
    path = store.at_step(whole[0], 3)
    still = {"learning_rate": 0.0, "warmup_steps": 0}
    branch = loop.train(after(files, path, steps=1, optimizer=still), tmp_path / "branch").checkpoint
    one, two = leaves(path), leaves(branch)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one if name.startswith("['params']"))


@pytest.mark.parametrize("remaining", [(9,), (3, 9), (8, 9)])
def test_a_run_that_is_done_is_trained_to_a_step_that_it_lacks(whole, files, tmp_path, remaining):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for step in set(store.all_steps(tmp_path)) - set(remaining):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    before = contents(tmp_path)
    assert loop.train(kept(files, 3, 6), tmp_path) == dataclasses.replace(
        whole[1], checkpoint=tmp_path / "checkpoints" / "9"
    )
    for step in (3, 6):
        assert_same_bits(store.at_step(tmp_path, step), store.at_step(whole[0], step))
        assert info(store.at_step(tmp_path, step)) == info(store.at_step(whole[0], step))
    now = contents(tmp_path)
    assert {name: now.get(name) for name in before} == before
    added = {name.split("/")[1] for name in now.keys() - before.keys()}
    assert added <= {"3", "6", "4"}, "only kept steps, and what the policy for the newest checkpoints allows"
    assert loop.train(kept(files, 3, 6), tmp_path).steps == STEPS and contents(tmp_path) == now


def test_other_kept_steps_continue_a_run_and_earlier_ones_stay(whole, files, tmp_path):
    def report(progress):
        if progress.get("step") == 7:
            raise Killed

    with pytest.raises(Killed):
        loop.train(kept(files, 3), tmp_path, report)
    # Step 2 is past: it is trained again once the run is done.
    loop.train(kept(files, 2, 6), tmp_path)
    assert store.all_steps(tmp_path) == [2, 3, 6, 8, 9]
    assert_same_bits(store.at_step(tmp_path, 6), store.at_step(whole[0], 6))
    assert records(tmp_path) == records(whole[0])
    loop.train(kept(files, 7), tmp_path)
    assert store.all_steps(tmp_path) == [2, 3, 6, 7, 8, 9]


def test_training_again_that_is_interrupted_loses_nothing_and_goes_on(whole, files, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for step in (3, 6, 8):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    config = kept(files, 3, 7, checkpoint_every=0)
    before = contents(tmp_path)
    for error, at in ((Killed, 1), (Preempted, 1), (Killed, 4), (Preempted, 4)):

        def report(progress, error=error, at=at):
            if progress.get("step") == at:
                if error is Killed:
                    raise Killed
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(error):
            loop.train(config, tmp_path, report)
        now = contents(tmp_path)
        changed = {name for name in before if now.get(name) != before[name]}
        assert changed <= {"config.json"}, "which has the steps that are kept"
        assert store.latest(tmp_path).name == "9"
    assert store.all_steps(tmp_path) == [2, 3, 5, 9]
    steps = []
    loop.train(config, tmp_path, lambda progress: steps.extend(steps_in(progress)))
    assert steps == [6, 7]
    assert_same_bits(store.at_step(tmp_path, 3), store.at_step(whole[0], 3))
    # Step 6 was kept before, so it is saved on the way.
    assert store.all_steps(tmp_path) == [3, 5, 6, 7, 9]


def test_an_adapter_phase_keeps_steps_too(whole, files, tmp_path):
    config = adapted(files, whole[0], keep_steps=(2,), steps=4, lora=dataclasses.replace(LORA, dropout=0.3))
    loop.train(config, tmp_path)
    first = entries(store.at_step(tmp_path, 2))
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    loop.train(config, tmp_path)
    again = entries(store.at_step(tmp_path, 2))
    assert first.keys() == again.keys() and all(first[name].tobytes() == again[name].tobytes() for name in first)


def entries(path):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = {}
    for entry in ("adapter", "opt_state"):
        shapes = jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=where),
            store.ocp.metadata(path.absolute(), entry).metadata,
        )
        for keys, leaf in jax.tree_util.tree_flatten_with_path(store.load(path, {entry: shapes}))[0]:
            found[jax.tree_util.keystr(keys)] = np.asarray(leaf)
    return found


def test_training_again_on_other_data_is_refused(files, tmp_path):
    copy = tmp_path / "documents.jsonl"
    copy.write_text((files / "documents.jsonl").read_text())
    config = kept(files, data={"sources": {"web": SourceConfig(str(copy), holdout=0.1)}})
    loop.train(config, tmp_path / "run")
    copy.write_text(copy.read_text().replace("cheese", "cheeses", 1))
    with pytest.raises(InputError, match=r"data changed since the checkpoint .*checkpoints/9"):
        loop.train(dataclasses.replace(config, keep_steps=(1,)), tmp_path / "run")


@pytest.mark.parametrize("step", [0, -1, 10])
def test_a_step_that_the_phase_does_not_have_is_refused(files, step):
    with pytest.raises(InputError, match=rf"^keep_steps: the phase has no step {step}; its steps are 1 to 9"):
        kept(files, step)


def test_a_step_before_the_state_that_a_phase_continues_is_refused(whole, files, tmp_path):
    config = after(files, store.at_step(whole[0], 6), "state", steps=STEPS, keep_steps=(6,))
    with pytest.raises(InputError, match=r"^keep_steps: .* has already done 6 steps"):
        loop.train(config, tmp_path)


def test_checkpoints_by_the_clock_roll_beside_sparse_ones_that_stay(whole, files, tmp_path):
    by_clock = {"checkpoint_every": 0, "checkpoint_minutes": 1e-9, "log_every": 2, "keep_checkpoints": 2}
    loop.train(kept(files, keep_every=3, **by_clock), tmp_path)
    assert store.all_steps(tmp_path) == [3, 6, 8, 9]
    assert_same_bits(store.latest(tmp_path), store.latest(whole[0]))
