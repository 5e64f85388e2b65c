"""Damaged checkpoints, full disks and second writers cost nothing: a run goes on from what is good to the same bits."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from test_training_kept_steps import stopped
from test_training_loop import after, assert_same_bits, phase, records, steps_in
from test_training_loop import files as files  # a fixture
from test_training_loop_processes import config_file as config_file  # a fixture
from test_training_loop_processes import start

from msm_jax import cli
from msm_jax.checkpoints import store
from msm_jax.data.config import SourceConfig
from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import settings
from msm_jax.training import loop
from msm_jax.training.config import PhaseConfig

EVERY_TWO = {"checkpoint_every": 2, "keep_checkpoints": 2}


def spoil(path: Path) -> None:
    """Cuts off a file of a checkpoint."""
    os.truncate(path / "params" / "manifest.ocdbt", 20)


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """A run that nothing disturbed, with checkpoints of the steps 8 and 9."""
    workdir = tmp_path_factory.mktemp("whole")
    loop.train(phase(files, **EVERY_TWO), workdir)
    return workdir


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(whole, files, tmp_path, caplog):
    config = phase(files, **EVERY_TWO)
    stopped(config, tmp_path, 7)
    assert store.all_steps(tmp_path) == [4, 6]
    spoil(tmp_path / "checkpoints" / "6")
    heard = []
    loop.train(config, tmp_path, heard.append)
    wrong = "is damaged (params/manifest.ocdbt is not as it was written); set aside as 6.damaged"
    word = f"{tmp_path}/checkpoints/6 {wrong}"
    assert f"tiny: {word}" in caplog.text and heard[0] == {"notice": word}
    assert heard[1]["step"] == 5
    assert_same_bits(store.latest(tmp_path), store.latest(whole))
    assert records(tmp_path) == records(whole)
    assert (tmp_path / "checkpoints" / "6.damaged" / "params").is_dir()


@pytest.mark.parametrize("good", [True, False])
def test_a_run_that_is_done_makes_up_for_a_damaged_last_checkpoint(whole, files, tmp_path, good):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for step in (9,) if good else (8, 9):
        spoil(tmp_path / "checkpoints" / str(step))
    steps = []
    loop.train(phase(files, **EVERY_TWO), tmp_path, lambda said: steps.append(said.get("step")))
    assert [step for step in steps if step] == ([9] if good else list(range(1, 10)))
    assert_same_bits(store.latest(tmp_path), store.latest(whole))
    assert records(tmp_path) == records(whole)


def test_another_phase_refuses_a_damaged_checkpoint_and_leaves_it(whole, files, tmp_path):
    shutil.copytree(whole, tmp_path / "base")
    spoil(tmp_path / "base" / "checkpoints" / "9")
    words = r"base/checkpoints/9: .* damaged .*such as .*base/checkpoints/8, or"
    with pytest.raises(InputError, match=words) as caught:
        loop.train(after(files, tmp_path / "base"), tmp_path / "next")
    assert "\n" not in str(caught.value)
    assert store.all_steps(tmp_path / "base") == [8, 9]
    assert not (tmp_path / "next").exists()


def test_a_checkpoint_from_which_another_phase_started_outlives_its_run(files, tmp_path):
    config = phase(files, checkpoint_every=1, keep_checkpoints=1)
    path = stopped(config, tmp_path / "base", 3)
    loop.train(after(files, tmp_path / "base", steps=1), tmp_path / "next")
    loop.train(config, tmp_path / "base")
    assert store.all_steps(tmp_path / "base") == [int(path.name), 9]
    loop.train(after(files, path, steps=1), tmp_path / "again")


def test_a_full_disk_is_one_line_and_the_run_continues_from_the_earlier_checkpoint(whole, files, tmp_path):
    config = phase(files, checkpoint_every=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def report(progress):
        if progress.get("step") == 4:
            while store.all_steps(tmp_path) != [3]:
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))

    try:
        with pytest.raises(WorkError) as caught:
            loop.train(config, tmp_path, report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert "file too large" in str(caught.value).lower()
    assert store.all_steps(tmp_path) == [3]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]
    loop.train(config, tmp_path)
    assert_same_bits(store.latest(tmp_path), store.latest(whole))
    assert records(tmp_path) == records(whole)


@pytest.mark.parametrize("change", ["changed", "appended", "vanished"])
def test_data_that_changes_while_a_run_reads_it_costs_nothing_and_is_refused_until_it_is_put_back(
    whole, files, tmp_path, change
):
    """The tokens that a run reads are in its cache."""
    copy, text = tmp_path / "documents.jsonl", (files / "documents.jsonl").read_text()
    copy.write_text(text)
    config = phase(files, data={"sources": {"web": SourceConfig(str(copy), holdout=0.1)}})

    def report(progress):
        if progress.get("step") == 3 and change == "vanished":
            copy.unlink()
        elif progress.get("step") == 3:
            last = text.splitlines(keepends=True)[-1]
            copy.write_text(text + last if change == "appended" else text.replace("cheese", "cheeses", 1))
        if progress.get("step") == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        loop.train(config, tmp_path / "run", report)
    words = "no such file" if change == "vanished" else "data changed since the checkpoint"
    with pytest.raises(InputError, match=words):
        loop.train(config, tmp_path / "run")
    copy.write_text(text)
    loop.train(config, tmp_path / "run")
    assert_same_bits(store.latest(tmp_path / "run"), store.latest(whole))


def test_a_clock_that_goes_backwards_changes_nothing(whole, files, tmp_path, monkeypatch):
    now, back = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() - back[0])
    config = phase(files, checkpoint_minutes=1e-9, keep_checkpoints=2)

    def report(progress):
        back[0] += 3600.0
        if progress.get("step") == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        loop.train(config, tmp_path, report)
    for path in tmp_path.rglob("*"):
        os.utime(path, (now() + 86_400,) * 2)
    loop.train(config, tmp_path)
    assert_same_bits(store.latest(tmp_path), store.latest(whole))
    assert records(tmp_path) == records(whole)


# Refuses a run on a read-only mount, and starts one elsewhere from a checkpoint and data on it.
READ_ONLY = """
import json, sys
from pathlib import Path
from test_training_loop import after, phase
from msm_jax.errors import InputError
from msm_jax.training import loop
mount, elsewhere = map(Path, sys.argv[1:])
data = {"cache_dir": str(elsewhere / "cache")}
try:
    loop.train(phase(mount, data=data), mount / "whole")
except InputError as error:
    print(error)
loop.train(after(mount, mount / "whole", data=data, steps=1, eval_every=0), elsewhere / "next")
"""


def test_a_read_only_mount_is_refused_in_one_line_and_read(whole, files, tmp_path):
    mount = tmp_path / "mount"
    shutil.copytree(files, mount)
    shutil.copytree(whole, mount / "whole")
    (mount / "whole" / "result.json").unlink()
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1" "$4"'
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("this system lets no user mount anything in a namespace of their own")
    done = subprocess.run(
        [*apart, "sh", "-c", script, "sh", str(mount), sys.executable, READ_ONLY, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}, capture_output=True, text=True,
    )
    refused = f"{mount}/whole/lock: cannot be written (Read-only file system); give another directory\n"
    assert (done.returncode, done.stdout) == (0, refused), done.stderr
    assert store.all_steps(tmp_path / "next") == [1]


def test_a_second_writer_is_refused_and_a_killed_one_is_replaced_at_once(config_file, tmp_path, caplog):
    flags = {"config": config_file, "config.steps": 100_000}
    config = settings.build(PhaseConfig, cli.load_config(flags))
    first = start(*(f"--{name}={value}" for name, value in flags.items()), f"--workdir={tmp_path}")
    while not (tmp_path / "checkpoints" / "2").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    with pytest.raises(InputError, match=rf"^{tmp_path}: in use by process {first.pid} on host "):
        loop.train(config, tmp_path)
    # Not waited for: the next one starts while the first is still ending.
    first.kill()
    steps = []

    def report(progress):
        steps.extend(steps_in(progress))
        if steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        loop.train(config, tmp_path, report)
    first.communicate()
    assert steps[0] > 2 and store.at_step(tmp_path, steps[-1])
    assert f"taken over from process {first.pid} on host" in caplog.text
