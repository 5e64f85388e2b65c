"""A Ray cluster of two machines, which are two real raylets here: order, failures, lost machines, signals, a report."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import experiments_small
import pytest
from experiments_small import ROOT, enter, write_files
from rich.console import Console
from test_experiments_scheduler import Heard, Marks, ran, task

from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.ray_executor import Machines, RayExecutor
from msm_jax.foundation import settings, storage

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head and a second machine of one core each, whose processes find the stand-ins."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: requirements-ray.txt")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("EXPERIMENT_LOG", str(tmp_path_factory.mktemp("log")))
    found = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    found.second = found.add_node(num_cpus=1)
    yield found
    found.shutdown()
    patch.undo()


def join(cluster):
    """Returns an executor on the cluster, which is not connected yet."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return RayExecutor(cluster.address, "experiments_nodes:setup", {"PYTHONPATH": path})


@pytest.fixture
def executor(cluster, tmp_path):
    """An executor on the cluster, and a listener."""
    with join(cluster) as found:
        yield found, Marks(tmp_path)


def words(log):
    return [word for word, _, _ in ran(log)]


def test_dependencies_end_first_and_the_machines_work_side_by_side(executor, tmp_path):
    ray, heard = executor
    assert ray.on_cpu
    assert ray.slots == 2
    ray.run([task("c", tmp_path, after=("a", "b")), task("a", tmp_path), task("b", tmp_path, after=("gone",))], heard)
    ends = [word for word in words(tmp_path) if word.startswith("end:")]
    assert ends[-1] == "end:c"
    assert sorted(ends) == ["end:a", "end:b", "end:c"]
    assert ("progress", "a", {"step": 1, "steps": 2, "loss": 1.5, "eta_seconds": 0.0}) in heard.events
    assert [event for event in heard.events if event[0] == "end"][-1] == ("end", "c")
    left, right = (str(tmp_path / f"{name}.heard") for name in ("left", "right"))
    ray.run([task("left", tmp_path, wait=right), task("right", tmp_path, wait=left)], heard)
    ray.run([task("e", tmp_path, "environment", threads=2)], heard)
    assert storage.read_json(tmp_path / "e.json")["setup"] == [1, 2]


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("input", InputError, r"^data.jsonl:3: bad$"),
        ("fail", WorkError, r"^bad: disk full$"),
        ("crash", WorkError, r"^bad: KeyError: 'lost my key'$"),
    ],
)
def test_after_a_failure_nothing_starts_and_what_runs_ends(executor, tmp_path, how, kind, message):
    ray, heard = executor
    running = str(tmp_path / "other.heard")
    tasks = [task("bad", tmp_path, how=how, wait=running, seconds=9.0), task("other", tmp_path, sleep=2.0, seconds=8.0)]
    tasks += [task("next", tmp_path, after=("bad",)), task("third", tmp_path), task("fourth", tmp_path)]
    with pytest.raises(kind, match=message):
        ray.run(tasks, heard)
    assert "start:next" not in words(tmp_path)
    assert "end:other" in words(tmp_path)
    assert ("failed", "bad") in heard.events
    assert ("start", "next") not in heard.events
    assert any("experiments_nodes.py" in line for line in heard.lines) == (how == "crash")


def test_a_task_whose_process_is_lost_runs_again(executor, tmp_path):
    ray, heard = executor
    ray.run([task("once", tmp_path, "dies_once"), task("after", tmp_path, after=("once",))], heard)
    assert words(tmp_path) == ["start:once", "start:once", "end:once", "start:after", "end:after"]
    assert [line for line in heard.lines if "once" in line] == [
        "once: its machine or process was lost; it continues elsewhere"
    ]


def test_a_service_of_rays_that_is_lost_is_one_line(executor, tmp_path):
    class Ends(Heard):
        def started(self, task_id):
            ray._ray.kill(ray._channel)

    ray, _ = executor
    said = r"^Ray does not answer any more: ActorDiedError: .*; see to the cluster, and run the same command again"
    with pytest.raises(WorkError, match=said):
        ray.run([task("long", tmp_path, sleep=5.0)], Ends())


def test_a_signal_lets_running_tasks_save_and_another_run_continues(cluster, tmp_path):
    def send():
        while not ran(tmp_path):
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    tasks = [task("long", tmp_path, "saves_when_stopped", steps=3000), task("rest", tmp_path, after=("long",))]
    threading.Thread(target=send, daemon=True).start()
    with join(cluster) as ray, pytest.raises(Preempted, match="run the same command again"):
        ray.run(tasks, Heard())
    saved = int((tmp_path / "long.state").read_text())
    assert 0 < saved < 3000
    with join(cluster) as ray:
        ray.run([task("long", tmp_path, "saves_when_stopped", steps=saved + 1), tasks[1]], Heard())
    assert words(tmp_path)[1:] == [f"start:long@{saved}", "end:long", "start:rest", "end:rest"]


def small(workdir, **more):
    """Runs the small experiment, and returns its report without times."""
    with open(os.devnull, "w") as nowhere:
        config = settings.build(ExperimentConfig, experiments_small.fields())
        run_lib.run(config, Path(workdir), Console(file=nowhere), experiments_small.FAKES, setup="", **more)
    return {**json.loads((Path(workdir) / "report.json").read_text()), "costs": None}


def command(workdir, address):
    """Runs the small experiment on a cluster in a process of its own, as users do, and returns its report."""
    code = f"import test_experiments_ray as tests; tests.small({workdir!r}, executor='ray:{address}')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, f"status {ended.returncode}: {ended.stderr}"
    return {**json.loads((Path(workdir) / "report.json").read_text()), "costs": None}


def test_a_machine_lost_in_the_middle_changes_nothing_in_the_report(cluster, tmp_path, monkeypatch, tiny_corpus):
    write_files(tmp_path, tiny_corpus)
    log = Path(os.environ["EXPERIMENT_LOG"])
    enter(tmp_path, monkeypatch)
    here = small("here")
    monkeypatch.setenv("EXPERIMENT_LOG", str(log))

    def lose():
        while sum(word.startswith("phase:") for word in words(log)) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    assert command("there", cluster.address) == here
    losing.join()
    number = len(ran(log))
    assert number >= len(experiments_small.EVERYTHING)
    assert command("there", cluster.address) == here
    assert len(ran(log)) == number, "another run has nothing to do"


def test_what_a_task_occupies():
    cpus = Machines([{"CPU": 4.0}, {"CPU": 8.0, "memory": 1e9}])
    assert (cpus.accelerator, cpus.slots) == ("", 12)
    assert cpus.needs(task("a", ".", threads=3)) == {"num_cpus": 3}
    assert cpus.needs(task("a", ".", devices=64)) == {"num_cpus": 8}
    gpus = Machines([{"CPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}])
    assert (gpus.accelerator, gpus.slots) == ("GPU", 8)
    assert gpus.needs(task("a", ".", devices=4)) == {"num_cpus": 1, "max_calls": 1, "num_gpus": 4}
    with pytest.raises(InputError, match="its mesh has 8 devices, and the largest machine of the cluster has 4 of GPU"):
        gpus.needs(task("a", ".", devices=8))
    tpus = Machines([{"CPU": 100.0, "TPU": 4.0}])
    assert tpus.needs(task("a", ".", devices=4)) == {"num_cpus": 1, "max_calls": 1, "resources": {"TPU": 4}}


@pytest.mark.parametrize("executor", ["rays", "ray:", "slurm", "local:1"])
def test_unknown_executors_are_refused_before_anything_is_written(executor, tmp_path):
    with pytest.raises(InputError, match=f"--executor={executor}: give local, ray, or ray:ADDRESS"):
        small(tmp_path / "run", executor=executor)
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_does_not_answer_is_refused():
    pytest.importorskip("ray", reason="Ray is not installed: requirements-ray.txt")
    with pytest.raises(InputError, match="no Ray cluster answers at 127"), RayExecutor("127.0.0.1:1"):
        pass
