"""An experiment as a process of its own: how it refuses, and how it ends at a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiments_small import EVERYTHING, ROOT, enter, run, write_files

from msm_jax.errors import InputError


@pytest.fixture
def files(tmp_path, monkeypatch, tiny_corpus):
    """A directory with small files of a user's own."""
    write_files(tmp_path, tiny_corpus)
    enter(tmp_path, monkeypatch)
    return tmp_path


def test_the_command_line_refuses_with_status_2(files):
    Path("bad.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'name': 'x', 'seeds': (0,), 'phasez': {}})\n"
    )
    command = [sys.executable, "-m", "msm_jax.experiment", "--config=bad.py", "--workdir=new"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr == "refused: config.phasez: unknown field; did you mean phases?\n"
    assert not Path("new").exists()


RUNNER = """
import sys
from pathlib import Path
from rich.console import Console
sys.path[:0] = [{root!r}, {tests!r}]
import experiments_small as small
from msm_jax import cli
from msm_jax.foundation import settings
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig

def main():
    config = settings.build(ExperimentConfig, small.fields())
    run_lib.run(config, Path("run"), Console(width=200), small.FAKES, setup="")

sys.exit(cli.status(main, ["run"]))
"""


def test_sigterm_stops_the_children_and_leaves_a_tree_that_continues(files):
    Path("runner.py").write_text(RUNNER.format(root=str(ROOT), tests=str(ROOT / "tests")))
    environment = {**os.environ, "EXPERIMENT_SLEEP": "1.5"}
    command = [sys.executable, "runner.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    log = Path("ran.log")
    while not log.exists() or "seed" not in log.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    with pytest.raises(InputError, match=f"run: in use by process {process.pid} on host"):
        run()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert error == "preempted: stopped by a signal; run the same command again to continue\n"
    assert "start phase/pretrain" in out
    pids = {int(line.split()[1]) for line in log.read_text().splitlines()}
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    ran = run()
    assert "phase:phase/pretrain" not in ran
    assert sorted({*ran, "phase:phase/pretrain"}) == sorted(set(EVERYTHING))
