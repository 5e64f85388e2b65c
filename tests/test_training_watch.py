"""What a run says of itself: where its time went, what is unusual, where it stands still, and traces."""

import gc
import json
import os
import re
import time

import pytest
from test_training_loop import Killed, assert_same_bits, phase, records
from test_training_loop import files as files  # a fixture

from msm_jax.checkpoints import store
from msm_jax.errors import InputError
from msm_jax.training import alerts, goodput, loop

STEPS, SPIKE = 30, 26


@pytest.fixture
def spiked(monkeypatch):
    """Makes the loss that step SPIKE reports thirty times as large: the losses before it still fall fast."""
    programs = loop._programs

    def planted(program, mesh):
        adamw, train_step, eval_step = programs(program, mesh)

        def step(state, batch, frozen):
            finished = int(state.step) + 1
            state, found = train_step(state, batch, frozen)
            return state, {**found, "loss": found["loss"] * (30 if finished == SPIKE else 1)}

        return adamw, step, eval_step

    monkeypatch.setattr(loop, "_programs", planted)


def test_a_run_says_what_is_unusual_and_a_killed_one_ends_with_the_same_records(files, tmp_path, spiked):
    watched, killed = tmp_path / "watched", tmp_path / "killed"
    notices = []

    def disturb(progress):
        notices.extend([progress["notice"]] if "notice" in progress else [])
        if progress.get("step") == 5:
            (watched / "trace").touch()
            time.sleep(1)  # several turns of the watch, so that this trace is over long before the stall
        if progress.get("step") == 24:
            began = time.monotonic()
            while not any("at step 25" in line for line in notices) and time.monotonic() - began < 30:
                time.sleep(0.05)

    loop.train(phase(files, steps=STEPS, eval_every=20, trace_steps=(3, 4), stall_seconds=1.2), watched, disturb)

    traces = [line for line in notices if line.startswith("trace ")]
    assert traces[0] == f"trace from step 3 on in {watched}/tensorboard; show it with xprof or TensorBoard"
    traced = list(watched.glob("tensorboard/trace_step*/plugins/profile/*/*.xplane.pb"))
    assert len(traces) == len({path.relative_to(watched).parts[1] for path in traced}) == 2
    (stalled,) = [line for line in notices if "at step 25" in line]
    stacks = watched / "stalls" / "step25.host0.txt"
    said = r"no progress for \d+ s at step 25 \(a step usually takes [\d.]+ s\); the stacks of all threads are in "
    assert re.fullmatch(said + re.escape(str(stacks)), stalled) and "in disturb" in stacks.read_text()
    (slow,) = [line for line in notices if line.startswith("step 25 took ")]
    assert re.search(r"took [\d.]+ s; usually [\d.]+ s$", slow)
    spikes = [line for line in notices if line.startswith("the loss ")]
    assert len(spikes) == 1 and spikes[0].startswith(f"the loss of step {SPIKE} is ")
    last = json.loads((watched / "metrics.jsonl").read_text().splitlines()[-2])
    assert (last["step"], last["loss_spikes"]) == (STEPS, 1) and last["slow_steps"] >= 1
    assert last["host_bytes"] > 2**20 and last["device_bytes"] is None

    def kill(progress):
        if progress.get("step") == 28:
            raise Killed

    gc.collect()  # now, so that what earlier tests left is not collected between the spans of the ledger
    began, config = time.monotonic(), phase(files, steps=STEPS, eval_every=20, checkpoint_every=14)
    with pytest.raises(Killed):
        loop.train(config, killed, kill)
    loop.train(config, killed)
    wall = time.monotonic() - began
    assert records(killed) == records(watched)
    assert_same_bits(store.latest(killed), store.latest(watched))
    seconds = goodput.summary(killed)
    assert 0.9 * wall < sum(seconds.values()) <= wall
    assert all(seconds[kind] > 0 for kind in ("startup", "step", "evaluation", "checkpoint", "data_wait"))


def test_the_ledger_counts_steps_that_were_done_again_as_lost_and_outlives_a_kill(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(goodput.time, "monotonic", lambda: now[0])

    def start(resumed, *work):
        ledger = goodput.Ledger(now[0])
        ledger.spent("startup")
        ledger.open(tmp_path / goodput.NAME, resumed)
        for step in work:
            now[0] += 0.02
            ledger.spent("step", step)
            ledger.flush()
        os.truncate(tmp_path / goodput.NAME, (tmp_path / goodput.NAME).stat().st_size - 5)

    start(0, 1, 2, 3, 4)
    start(2, 3, 4)
    found = goodput.summary(tmp_path)
    assert found["step"] == pytest.approx(0.06), "1, 2 and 3; the kill took the last line of each start"
    assert found["lost"] == pytest.approx(0.02), "step 3"
    assert goodput.summary(tmp_path / "none") == {}


def test_only_a_value_far_above_the_recent_ones_rings_and_once_a_stretch():
    falling = [5 * 0.98**step + 0.02 * (-1) ** step for step in range(200)]
    alarm = alerts.Alarm(alerts.LOSS)
    assert not any(map(alarm.rings, [9.0, *falling[:15], 9.0, *falling[17:]]))
    assert [alarm.rings(value) for value in (4.0, 4.1, 0.2, 4.0)] == [True, False, False, True]
    assert alarm.count == 2
    again = alerts.Alarm(alerts.LOSS, [9.0, *falling, 4.0, 4.1][-alerts.WINDOW - 1 :], count=1)
    assert [again.rings(value) for value in (0.2, 4.0)] == [False, True]
    assert again.count == 2


@pytest.mark.parametrize("changes", [{"trace_steps": (3,)}, {"trace_steps": (0, 2)}, {"stall_seconds": 0.0}])
def test_settings_of_the_watch_are_checked(files, changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        phase(files, **changes)
