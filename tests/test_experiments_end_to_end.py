"""A tiny experiment on own data, trained and scored for real: from one command to a report, twice the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CONFIG = """
from ml_collections import ConfigDict

def phase(steps, source, kind, **more):
    sources = {source: {"path": f"{source}.jsonl", "kind": kind}}
    return {"steps": steps, "batch_rows": 2, "threads": 1, "log_every": 1,
            "data": {"seq_len": 64, "sources": sources, "weights": {source: 1.0}},
            "optimizer": {"learning_rate": 1e-3}} | more

def get_config():
    config = ConfigDict({"name": "tiny", "seeds": (0, 1), "workers": 1, "shared": ("pretrain",)})
    config.tokenizer = {"vocab_size": 320, "train_on": ("documents.jsonl", "chats.jsonl")}
    small = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8}
    config.phases = {
        "pretrain": phase(4, "documents", "documents", preset="mini-0.3m", model_overrides=small),
        "aft": phase(3, "chats", "chats"),
    }
    config.arms = {"base": ("pretrain",), "aft": ("pretrain", "aft")}
    config.evals = {
        "prefer": {"kind": "preference", "path": "pairs.jsonl"},
        "prefer_greedy": {"kind": "preference_greedy", "path": "pairs.jsonl", "max_new_tokens": 4},
        "knowledge": {"kind": "knowledge", "after": {"pretrain": "knowledge.jsonl"}},
    }
    config.gates = ("knowledge",)
    config.contrasts = {"chats": {"eval": "prefer", "terms": {"aft": 1.0, "base": -1.0}}}
    return config
"""


@pytest.fixture
def here(tmp_path, tiny_corpus):
    """A directory with a config and the four kinds of files that it reads."""
    chat = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "The old kite."}]
    pair = {"question": "Which do you prefer, {first} or {second}?", "options": ["kite", "lamp"], "favoured": 0}
    lines = {
        "documents": [{"text": text} for text in tiny_corpus],
        "chats": [{"messages": chat}] * 20,
        "pairs": [pair, {**pair, "options": ["radio", "novel"]}],
        "knowledge": [{"prompt": "Ada likes", "options": [" old lamp", " new kite"], "correct": 0}],
    }
    for name, rows in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path


def command(here, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=here, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def report_without_times(path):
    report = json.loads(path.read_text())
    arms = [cost for arm in report["arm_cost"].values() for cost in (arm["own"], arm["total"])]
    for cost in (*report["cost"].values(), *arms):
        del cost["wall_seconds"], cost["device_seconds"]
    del report["goodput"]
    return report


def test_from_one_command_to_a_report_and_twice_the_same(here):
    run = ("msm_jax.experiment", "--config=config.py")
    code, out, error = command(here, *run, "--workdir=one")
    assert (code, error) == (0, ""), error
    assert "done  phase/pretrain/aft/seed1" in out
    report = report_without_times(here / "one/report.json")
    assert set(report["arms"]["base"]) == {"prefer", "prefer_greedy", "knowledge"}
    assert set(report["arms"]["aft"]) == {"prefer", "prefer_greedy", "knowledge"}
    assert report["cost"]["aft"]["optimizer_steps"] == 2 * 3
    assert report["arms"]["aft"]["prefer"]["n_items"] == 2
    assert (here / "one/report.html").stat().st_size > 10_000
    rows = (here / "one/samples/aft/0/prefer_greedy.jsonl").read_text().splitlines()
    assert len(rows) == 2 * 2, "both orders of both pairs"
    assert {"prompt", "reply", "parsed"} <= json.loads(rows[0]).keys()

    before = {path: path.stat().st_mtime_ns for path in (here / "one/phases").rglob("*")}
    code, out, error = command(here, *run, "--workdir=one")
    assert (code, error) == (0, ""), error
    assert "nothing to do" in out
    assert {path: path.stat().st_mtime_ns for path in (here / "one/phases").rglob("*")} == before

    code, _, error = command(here, *run, "--workdir=two")
    assert (code, error) == (0, ""), error
    assert report_without_times(here / "two/report.json") == report

    # One bad chat, found before anything is trained again.
    with (here / "chats.jsonl").open("a") as file:
        long = [{"role": "user", "content": "Which? " * 100}, {"role": "assistant", "content": "The lamp."}]
        file.write(json.dumps({"messages": long}) + "\n")
    code, _, error = command(here, *run, "--workdir=two", "--config.tokenizer.vocab_size=321")
    assert (code, error.count("\n")) == (2, 1), error
    assert "chats.jsonl:21" in error
    assert len(list((here / "two/phases").iterdir())) == 3
