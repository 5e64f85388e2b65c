"""A kind of node and a kind of eval, each in one file of the tests, run through the command to the report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COUNT = 60

CONFIG = f"""
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict({{"name": "kinds", "seeds": (0,), "workers": 1}})
    config.corpora = {{"written": {{"kind": "tests.nodes_written", "count": {COUNT}, "bill": "bill.txt"}}}}
    documents = "{{written}}/documents.jsonl"
    config.tokenizer = {{"vocab_size": 300, "train_on": (documents,)}}
    small = {{"num_layers": 1, "hidden_size": 16, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8}}
    config.phases = {{"learn": {{
        "preset": "mini-0.3m", "model_overrides": small, "steps": 2, "batch_rows": 2, "threads": 1,
        "data": {{"seq_len": 32, "sources": {{"own": {{"path": documents}}}}, "weights": {{"own": 1.0}}}},
        "optimizer": {{"learning_rate": 1e-3}},
    }}}}
    config.arms = {{"learnt": ("learn",)}}
    config.evals = {{"likely": {{"kind": "tests.evals_probability", "path": "texts.jsonl", "opening": "The kite"}}}}
    return config
"""


def experiment(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "msm_jax.experiment", "--config=config.py", "--workdir=run", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(*arguments: str) -> tuple[int, str, str]:
    process = experiment(*arguments)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "config.py").write_text(CONFIG)
    lines = [json.dumps({"text": text}) + "\n" for text in ("is old.", "is new.")]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("kills", ["worker", "everything"])
def test_new_kinds_reach_the_report_and_a_killed_node_keeps_what_was_paid_for(here, kills):
    status, out, error = finished("--dry_run")
    assert status == 0, error
    assert f"${0.01 * COUNT:.2f}" in out
    assert not Path("bill.txt").exists()

    process, bill = experiment(), Path("bill.txt")
    while not bill.exists() or len(bill.read_text().splitlines()) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    if kills == "everything":
        process.kill()
    os.kill(int(bill.read_text().split()[1]), signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if kills == "everything" else 1)
    assert kills == "everything" or "written: worker ended with signal SIGKILL" in error
    paid = len(bill.read_text().splitlines())
    assert 5 <= paid < COUNT

    status, out, error = finished()
    assert status == 0, error
    numbers = [int(line.split()[0]) for line in bill.read_text().splitlines()]
    # A reply that was written and not yet billed when the process died is kept too.
    assert numbers in (list(range(COUNT)), [n for n in range(COUNT) if n != paid])
    entry = json.loads(Path("run/report.json").read_text())["arms"]["learnt"]["likely"]
    assert 0 < entry["mean"] < 1 and entry["n_items"] == 2
    assert "written" in Path("run/report.html").read_text()
    assert finished()[1].startswith("nothing to do")


def test_settings_of_new_kinds_are_refused_by_their_kinds(here):
    for flag, message in {
        "--config.corpora.written.count=0": "corpora.written.count: must be at least 1",
        "--config.corpora.written.kind=tests.nodes_absent": "written.kind: module tests.nodes_absent does not exist",
        "--config.corpora.written.kind=minworld": "written.kind: 'minworld' is unknown; did you mean miniworld?",
        "--config.evals.likely.kind=tests.conftest": "evals.likely.kind: module tests.conftest defines no KIND",
    }.items():
        status, _, error = finished(flag)
        assert status == 2 and message in error and error.count("\n") == 1, error
    assert not Path("run").exists()
