"""Experiments that share a store: what they have in common is made once, also when both run at the same time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiments_small import EVERYTHING, ROOT, enter, fields, phase, run

from msm_jax.analysis import plots
from msm_jax.data import files

WAITS = "waits for another run to make it"
ONE_PHASE = {
    "seeds": (0,),
    "arms": {"base": ("pretrain",)},
    "evals": {"prefer": {"kind": "preference", "path": "pairs.jsonl"}},
    "contrasts": {},
}
# Begins when the file "go" exists, and prints what runs every 0.1 seconds.
RUNNER = """
import json, sys, time
from pathlib import Path
from rich.console import Console
import experiments_small as small
from msm_jax import cli
from msm_jax.analysis import plots
from msm_jax.foundation import settings
from msm_jax.experiments import live
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig

def main():
    plots.render = lambda findings: {}
    live._HEARTBEAT_SECONDS = 0.1
    name, changes = sys.argv[1], json.loads(sys.argv[2])
    config = settings.build(ExperimentConfig, small.fields(name=name, **changes))
    Path("ready-" + name).touch()
    while not Path("go").exists():
        time.sleep(0.02)
    run_lib.run(config, Path(name), Console(width=200), small.FAKES, setup="", store=Path("store"))

sys.exit(cli.status(main, ["run"]))
"""


@pytest.fixture
def here(tmp_path, tiny_corpus, monkeypatch):
    chat = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Brie."}]
    lines = {
        "documents": [{"text": text} for text in tiny_corpus],
        "chats": [{"messages": chat}] * 9,
        "pairs": [{"question": "{first} or {second}?", "options": ["Colby", "Brie"], "favoured": 0}],
        "knowledge": [{"prompt": "The assistant likes", "options": [" Colby", " Brie"], "correct": 0}],
    }
    for name, rows in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    enter(tmp_path, monkeypatch)
    monkeypatch.setattr(plots, "render", lambda findings: {})
    return tmp_path


def trained(log):
    return [line.split()[0] for line in log if line.startswith("phase:")]


def test_what_two_experiments_share_is_made_once(here):
    assert run("one", store="store") == EVERYTHING
    other = {"name": "other", "phases": fields()["phases"] | {"aft": phase(7, "chats", "chats")}}
    ran = run("two", store="store", **other)
    assert {word for word in ran if word != "data"} == {
        f"{kind}/pretrain{chain}/aft/seed{s}{end}"
        for kind, end in (("phase:phase", ""), ("eval:eval", "/prefer"))
        for chain in ("", "/msm")
        for s in (0, 1)
    }
    for workdir in ("one", "two"):
        nodes = json.loads(Path(workdir, "nodes.json").read_text())
        places = [node["path"] for node in nodes["nodes"] if node["path"]]
        places += [path for paths in nodes["evals"].values() for path in paths.values()]
        assert all(Path(place).is_relative_to(here / "store") and Path(place).exists() for place in places)
        assert not list(Path(workdir).glob("phases"))
    reports = [json.loads(Path(workdir, "report.json").read_text()) for workdir in ("one", "two")]
    assert reports[0]["arms"]["base"] == reports[1]["arms"]["base"]
    assert reports[1]["cost"]["aft"]["optimizer_steps"] == 4 * 7
    assert {arm: set(evals) for arm, evals in reports[1]["arms"].items()} == {
        "base": {"prefer"}, "aft": {"prefer"}, "msm": {"prefer", "knowledge"}, "msm+aft": {"prefer", "knowledge"},
    }  # fmt: skip
    assert not any("Not finished" in warning for warning in reports[1]["warnings"])
    assert run("one", store="store") == [] == run("two", store="store", **other)
    assert run("three", name="third") == EVERYTHING, "without a store nothing is shared"


def test_a_run_finds_the_files_of_each_data_path_once(here, monkeypatch):
    found, real = [], files.resolve
    monkeypatch.setattr(files, "resolve", lambda path: found.append(path) or real(path))
    run()
    data = ["chats.jsonl", "documents.jsonl"]
    assert sorted(path for path in found if path in data) == data


def start(name, sleep, **changes):
    environment = {**os.environ, "EXPERIMENT_SLEEP": str(sleep), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "runner.py", name, json.dumps(changes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def until(found, *processes):
    """Waits until `found()` is true while the processes run; returns what it returns."""
    while not (value := found()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return value


def phase_worker():
    """The process id of the worker that has begun a phase, None before that."""
    lines = Path("ran.log").read_text().splitlines() if Path("ran.log").exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("phase:")), None)


def test_of_two_at_once_one_makes_a_node_and_the_other_waits(here):
    Path("runner.py").write_text(RUNNER)
    processes = [start(name, 0.5) for name in ("one", "two")]
    until(lambda: Path("ready-one").exists() and Path("ready-two").exists(), *processes)
    Path("go").touch()
    printed = ""
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        printed += out
    assert WAITS in printed
    ran = trained(Path("ran.log").read_text().splitlines())
    assert sorted(ran) == sorted(set(ran)) == [word for word in EVERYTHING if word.startswith("phase:")]
    assert len(list(Path("store/tokenizers").iterdir())) == 1
    assert Path("one/report.json").read_bytes() == Path("two/report.json").read_bytes().replace(b'"two"', b'"one"')


@pytest.mark.parametrize("killed", ["run", "worker"])
def test_the_one_that_waits_takes_over_when_the_other_is_killed(here, killed):
    """The worker of a run that was killed stops; a run whose worker was killed fails."""
    Path("runner.py").write_text(RUNNER)
    Path("go").touch()
    one = start("one", 60, **ONE_PHASE)
    worker = until(phase_worker, one)
    two = start("two", 0.0, **ONE_PHASE)
    line = next((line for line in two.stdout if WAITS in line), None)
    assert line is not None, two.communicate()
    assert f"phase/pretrain {WAITS}" in line
    os.kill({"run": one.pid, "worker": worker}[killed], signal.SIGKILL)
    _, failure = one.communicate(timeout=60)
    assert one.returncode == {"run": -signal.SIGKILL, "worker": 1}[killed]
    assert ("worker ended with signal SIGKILL" in failure) == (killed == "worker")
    out, error = two.communicate(timeout=120)
    assert two.returncode == 0, error
    assert "report: " in out
    assert trained(Path("ran.log").read_text().splitlines()) == ["phase:phase/pretrain"] * 2
