"""A run at a URL: killed, damaged, refused or on a storage that fails, it ends with the bits of a run on a disk."""

import dataclasses
import logging
import os
import shutil
import signal
import time

import pytest
from objects import Flaky
from objects import here as here  # a fixture
from objects import memory as memory  # a fixture
from test_training_faults import EVERY_TWO, spoil
from test_training_faults import whole as whole  # a fixture
from test_training_kept_steps import stopped
from test_training_loop import after, assert_same_bits, phase, records, steps_in
from test_training_loop import files as files  # a fixture
from test_training_loop_processes import config_file as config_file  # a fixture
from test_training_loop_processes import metrics, start
from test_training_lora import adapted

from msm_jax import cli
from msm_jax.checkpoints import compose, integrity, manifest, remote, store, workdirs
from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import mirror, settings, storage
from msm_jax.training import loop
from msm_jax.training.config import PhaseConfig
from tools import kills

URL = "memory://bucket/runs/tiny"


def trained(config, url, report=None):
    """Trains in a workdir at a URL; returns where the copy of its last checkpoint is."""
    with workdirs.working(url) as workdir:
        loop.train(config, workdir, report)
    assert not workdir.exists()
    return store.resolve(url)


def check_same_run(url, whole, tmp_path):
    """Checks that the run at a URL has the bits and the records of an undisturbed one on a disk, and no other files."""
    assert_same_bits(store.resolve(url), store.latest(whole))
    storage.download(f"{url}/metrics.jsonl", tmp_path / "found" / "metrics.jsonl")
    assert records(tmp_path / "found") == records(whole)
    names = mirror.files_at(url)
    assert {"config.json", "manifest.json", "result.json", "goodput.jsonl"} < set(names)
    assert not [name for name in names if name.startswith(("cache/", "lock", "."))]
    steps = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert steps == {str(step) for step in store.all_steps(whole)}


def stopped_at(config, url, step):
    """Has a signal stop a run at a URL after a step, and forgets its copy, as another machine would."""
    with workdirs.working(url) as workdir:
        stopped(config, workdir, step)
    shutil.rmtree(mirror.root(), ignore_errors=True)


def test_a_run_in_an_object_store_is_continued_on_another_machine(whole, files, memory, tmp_path):
    config = phase(files, **EVERY_TWO)
    stopped_at(config, URL, 5)
    assert remote.steps_at(URL) == [2, 4] and "result.json" not in mirror.files_at(URL)
    # Uploads that did not end, with and without a name that an earlier one had.
    memory.rm_file(f"{URL}/checkpoints/4/{integrity.NAME}")
    memory.pipe_file(f"{URL}/checkpoints/6/params/half", b"half")
    with pytest.raises(InputError, match="no such checkpoint"):
        store.resolve(f"{URL}/checkpoints/6")
    assert store.resolve(URL).name == "2"
    with workdirs.working(URL) as workdir:
        assert store.read_info(workdir)["step"] == 2
        newest = store.latest(workdir)
        assert not (newest / "params").exists() and not (newest / "opt_state").exists(), "only what is read is copied"
        assert kills.arrays(newest) == kills.arrays(workdir / "checkpoints/2")
        assert (newest / "params").exists() and not (newest / "opt_state").exists()
    seen = []
    trained(config, URL, lambda said: seen.extend(steps_in(said)))
    assert seen[0] == 3
    check_same_run(URL, whole, tmp_path)
    before = memory.info(f"{URL}/result.json")["created"]
    assert trained(config, URL).name == "9"
    assert memory.info(f"{URL}/result.json")["created"] == before


def test_a_damaged_checkpoint_in_an_object_store_is_set_aside(whole, files, memory, tmp_path, caplog):
    config = phase(files, **EVERY_TWO)
    stopped_at(config, URL, 5)
    memory.pipe_file(f"{URL}/checkpoints/4/params/manifest.ocdbt", b"cut off")
    with pytest.raises(InputError, match=r"damaged \(params/manifest.ocdbt is not as it was written"):
        store.load(URL, {"params": {}})
    trained(config, URL)
    assert "is not as it was written); set aside as 4.damaged" in caplog.text
    aside = [name for name in mirror.files_at(URL) if name.startswith("checkpoints/4")]
    assert f"checkpoints/4.damaged/{integrity.NAME}" in aside
    assert not [name for name in aside if name.startswith("checkpoints/4/")]
    memory.rm(f"{URL}/checkpoints/4.damaged", recursive=True)
    check_same_run(URL, whole, tmp_path)


def test_a_copy_is_used_again_mended_and_replaced(files, memory, caplog):
    caplog.set_level(logging.INFO, "msm_jax")
    last = trained(phase(files, steps=2), URL)
    first = (last / integrity.NAME).stat().st_mtime_ns
    assert store.resolve(URL) == last and (last / integrity.NAME).stat().st_mtime_ns == first
    spoil(last)
    store.read_assets(last)
    store.check(last, ["params"])
    memory.rm(URL, recursive=True)
    trained(phase(files, steps=2, seed=6), URL)
    assert store.read_info(URL)["seed"] == 6
    assert caplog.text.count("is copied to this machine") == 2


def test_a_phase_starts_from_an_object_store_and_its_start_outlives_the_run(files, memory, tmp_path):
    config = phase(files, checkpoint_every=1, keep_checkpoints=1)
    stopped_at(config, URL, 3)
    loop.train(after(files, URL, steps=1), tmp_path / "next")
    parent = manifest.read(tmp_path / "next").parent
    assert parent.run == URL and parent.checkpoint == f"{URL}/checkpoints/2" and parent.manifest_sha256
    trained(config, URL)
    assert remote.steps_at(URL) == [2, 9]


def test_an_adapter_finds_its_base_in_the_object_store_and_is_merged_there(files, memory, convert):
    base, run, whole = (f"memory://bucket/{name}" for name in ("base", "adapter", "whole"))
    trained(phase(files, steps=2), base)
    last = trained(adapted(files, base, steps=2), run)
    assert store.read_info(last)["base"]["path"] == f"{base}/checkpoints/2"
    shutil.rmtree(mirror.root())
    given = (f"--from_checkpoint={run}", "--merge", f"--to_checkpoint={whole}")
    status, out, err = convert(*given)
    assert status == 0 and out == f"wrote {whole}/checkpoints/0\n", err
    assert set(store.shapes(whole, "params")) == set(store.shapes(base, "params"))
    status, out, err = convert(*given)
    assert status == 2 and err.endswith(f"refused: {whole}: exists; choose another path\n")
    assert compose.directory_of(run) == last and not list((mirror.root() / "written").rglob("*.json"))


def test_a_storage_that_fails_every_20th_call_costs_nothing(whole, files, here, tmp_path, caplog):
    url = f"flaky://{tmp_path}/bucket/tiny"
    config = phase(files, **EVERY_TWO)
    stopped_at(config, url, 5)
    trained(config, url)
    assert caplog.text.count("connection reset by peer; trying again (") >= next(Flaky.calls) // 20 - 1 > 4
    check_same_run(url, whole, tmp_path)


def test_a_storage_that_stays_away_ends_the_run_which_then_continues(whole, files, memory, tmp_path, monkeypatch):
    config = phase(files, **EVERY_TWO)
    put = type(memory).put_file

    def away(self, path, url, **more):
        if "/checkpoints/4/" in url:
            raise ConnectionResetError("connection reset by peer")
        put(self, path, url, **more)

    monkeypatch.setattr(type(memory), "put_file", away)
    words = r"checkpoints/4 failed: .*connection reset by peer; .*checkpoints/2$"
    with pytest.raises(WorkError, match=words) as caught:
        trained(config, URL)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(type(memory), "put_file", put)
    trained(config, URL)
    check_same_run(URL, whole, tmp_path)


def test_hosts_that_share_no_disk_are_refused(here, monkeypatch):
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(InputError, match="several hosts writes its checkpoints to a file system that they share"):
        trained(None, URL)


def test_a_killed_process_is_replaced_and_a_second_writer_refused(config_file, here, tmp_path, monkeypatch, caplog):
    """With real processes, at a URL that they share."""
    url = f"file://{tmp_path}/bucket/run"
    flags = {"config": config_file, "config.steps": 100_000, "config.checkpoint_every": 20, "config.eval_every": 0}
    config = dataclasses.replace(settings.build(PhaseConfig, cli.load_config(flags)), log_every=1)
    first = start(*(f"--{name}={value}" for name, value in flags.items()), f"--workdir={url}")
    while not remote.steps_at(url):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    with pytest.raises(InputError, match=rf"^{url}: in use by process {first.pid} on host "), workdirs.working(url):
        pass
    first.kill()
    _, said = first.communicate()
    assert str(here) not in said
    monkeypatch.setenv(mirror.ROOT, str(tmp_path / "another machine"))
    seen = []

    def report(progress):
        seen.extend(steps_in(progress))
        if len(seen) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with workdirs.working(url) as workdir, pytest.raises(Preempted):
        loop.train(config, workdir, report)
    assert f"{url}: taken over from process {first.pid} on host" in caplog.text
    assert (seen[0] - 1) % 20 == 0 and seen[0] > 20 and remote.steps_at(url)[-1] == seen[-1]
    stopped(config, tmp_path / "disk", seen[-1] + 1)
    found, undisturbed = metrics(tmp_path / "bucket/run"), metrics(tmp_path / "disk")
    assert list(found) == list(range(1, seen[-1] + 1))
    # The killed process had other devices and compiler flags than this one.
    losses = [undisturbed[step]["loss"] for step in found]
    assert [record["loss"] for record in found.values()] == pytest.approx(losses, rel=1e-5)
    assert not storage.exists(f"{url}.lock")
