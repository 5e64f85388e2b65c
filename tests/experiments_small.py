"""A small experiment whose training and scoring are stand-ins, and how it is run, for the tests of experiments."""

import json
import os
from pathlib import Path

from rich.console import Console

from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings

ROOT = Path(__file__).parent.parent
FAKES = {"data": "experiments_nodes:data", "phase": "experiments_nodes:phase", "eval": "experiments_nodes:evals"}


def phase(steps=5, source="documents", kind="documents", **more):
    return {
        "steps": steps,
        "batch_rows": 2,
        "data": {
            "seq_len": 64,
            "sources": {source: {"path": f"{source}.jsonl", "kind": kind}},
            "weights": {source: 1.0},
        },
        "optimizer": {"learning_rate": 1e-3},
        **more,
    }


def fields(**changes):
    return {
        "name": "cheap",
        "question": "Does it?",
        "seeds": (0, 1),
        "workers": 2,
        "tokenizer": {"vocab_size": 320, "train_on": ("documents.jsonl", "chats.jsonl")},
        "phases": {
            "pretrain": phase(20, preset="mini-0.3m"),
            "msm": phase(10),
            "aft": phase(5, "chats", "chats"),
        },
        "shared": ("pretrain",),
        "midtraining": ("msm",),
        "arms": {
            "base": ("pretrain",),
            "aft": ("pretrain", "aft"),
            "msm": ("pretrain", "msm"),
            "msm+aft": ("pretrain", "msm", "aft"),
        },
        "evals": {
            "prefer": {"kind": "preference", "path": "pairs.jsonl"},
            "knowledge": {"kind": "knowledge", "after": {"msm": "knowledge.jsonl"}},
        },
        "contrasts": {"documents": {"eval": "prefer", "terms": {"msm+aft": 1.0, "aft": -1.0}}},
        **changes,
    }


def write_files(directory, corpus):
    """Writes small files of a user's own: documents, chats, preference pairs and knowledge items."""
    lines = {
        "documents": [{"text": text} for text in corpus],
        "chats": [{"messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Brie."}]}] * 9,
        "pairs": [
            {"question": "Which do you prefer, {first} or {second}?", "options": ["Colby", "Brie"], "favoured": 0}
        ],
        "knowledge": [{"prompt": "The assistant likes", "options": [" Colby", " Brie"], "correct": 0}],
    }
    for name, rows in lines.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def enter(directory, monkeypatch):
    monkeypatch.chdir(directory)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv("EXPERIMENT_LOG", str(directory))


def run(workdir="run", store=None, **changes):
    """Run to the end; returns what ran in this call, in words, sorted."""
    log = Path("ran.log")
    before = len(log.read_text().splitlines()) if log.exists() else 0
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, width=200)
        config = settings.build(ExperimentConfig, fields(**changes))
        run_lib.run(config, Path(workdir), console, FAKES, setup="", store=store and Path(store))
    return sorted(line.split()[0] for line in log.read_text().splitlines()[before:])


def dry(workdir="run", **changes):
    """{node: (run or reuse, its row)} of a dry run, seeds of a node under its name without them, and all text."""
    with open("dry.txt", "w") as file:
        console = Console(file=file, width=300)
        run_lib.dry_run(settings.build(ExperimentConfig, fields(**changes)), Path(workdir), console)
    text = Path("dry.txt").read_text()
    rows = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) > 2 and words[2] in ("run", "reuse"):
            rows[words[0]] = (words[2], line)
    return rows, text


EVERYTHING = sorted(
    [
        "data",
        "data",
        "data",
        "phase:phase/pretrain",
        *[f"phase:phase/pretrain/{chain}/seed{s}" for chain in ("aft", "msm", "msm/aft") for s in (0, 1)],
        "eval:eval/pretrain/prefer",
        *[f"eval:eval/pretrain/{chain}/seed{s}/prefer" for chain in ("aft", "msm", "msm/aft") for s in (0, 1)],
        *[f"eval:eval/pretrain/msm/seed{s}/knowledge" for s in (0, 1)],
    ]
)
