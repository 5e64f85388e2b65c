"""Phases with adapters in the graph of an experiment: their addresses, what they start from, and their evals."""

import json
from pathlib import Path

import pytest

from msm_jax.checkpoints import store
from msm_jax.errors import InputError
from msm_jax.experiments import checks, nodes
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.plan import Planner
from msm_jax.foundation import settings

LORA = {"rank": 2, "alpha": 4.0}
SMALL = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "intermediate_size": 24}


def phase(name, kind, **more):
    sources = {name: {"path": f"{name}.jsonl", "kind": kind}}
    return {
        "steps": 2, "batch_rows": 2, "threads": 1, "log_every": 1, "optimizer": {"learning_rate": 1e-2},
        "data": {"seq_len": 64, "sources": sources, "weights": {name: 1.0}}, **more,
    }  # fmt: skip


def experiment(msm=LORA, aft=LORA, **more):
    return settings.build(
        ExperimentConfig,
        {
            "name": "adapters",
            "seeds": (0,),
            "tokenizer": {"path": "tokenizer"},
            "shared": ("pretrain",),
            "phases": {
                "pretrain": phase("documents", "documents", preset="mini-0.3m", model_overrides=SMALL),
                "msm": phase("documents", "documents", lora=msm),
                "aft": phase("chats", "chats", lora=aft, **more),
            },
            "arms": {"aft": ("pretrain", "aft"), "both": ("pretrain", "msm", "aft")},
            "evals": {"prefer": {"kind": "preference", "path": "pairs.jsonl"}},
        },
    )


def write_files(directory, tiny_corpus, tiny_tokenizer):
    """Writes the data, the items and the tokenizer of a small experiment."""
    chat = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "The old kite."}]
    pair = {"question": "Which do you prefer, {first} or {second}?", "options": ["kite", "lamp"], "favoured": 0}
    lines = {
        "documents": [{"text": text} for text in tiny_corpus[:40]],
        "chats": [{"messages": chat}] * 20,
        "pairs": [pair],
    }
    for name, rows in lines.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "tokenizer").mkdir()
    for name, data in tiny_tokenizer.files().items():
        (directory / "tokenizer" / name).write_bytes(data)


@pytest.fixture
def here(tmp_path, tiny_corpus, tiny_tokenizer, monkeypatch):
    write_files(tmp_path, tiny_corpus, tiny_tokenizer)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def steps_of(config, workdir=Path("work")):
    """(steps, what is known) of a run that is planned in `workdir`."""
    return Planner(config, workdir, {}).plan()


def test_a_change_of_an_adapter_runs_what_follows_it_and_nothing_else(here):
    before = steps_of(experiment())[1].addresses
    after = steps_of(experiment(msm={**LORA, "dropout": 0.1}))[1].addresses
    phases = [name for name in before if name.startswith("phase/")]
    changed = {name for name in phases if before[name][""].hash != after[name][""].hash}
    assert changed == {"phase/pretrain/msm/seed0", "phase/pretrain/msm/aft/seed0"}


@pytest.mark.slow
def test_a_chain_of_adapters_trains_and_is_scored(here):
    config = experiment()
    checks.check_settings(config)
    steps, context = steps_of(config)
    for step in steps:
        node, found = step.node, context.addresses[step.node.id]
        kind = nodes.find(node.kind)
        kind.run(kind.arguments(node, found, context), found, lambda _: None)
        assert all(kind.is_done(address) for address in found.values())
    base = store.latest(context.addresses["phase/pretrain"][""].path).absolute()
    for name in ("aft/seed0", "msm/seed0", "msm/aft/seed0"):
        info = store.read_info(context.addresses[f"phase/pretrain/{name}"][""].path)
        assert info["base"]["path"] == str(base), name
        assert len(info["adapters"]) == 1, name
    assert all(step.task is None for step in steps_of(config)[0])


@pytest.mark.parametrize(
    ("aft", "more", "message"),
    [
        (None, {}, r"phases.aft.lora is not set, but the checkpoint of msm holds an adapter"),
        ({"rank": 4, "alpha": 4.0}, {}, r"phases.aft.lora.rank = 4, but the adapter in the checkpoint of msm has 2"),
        ({"rank": 2, "alpha": 4.0, "targets": ("query",)}, {}, r"phases.aft.lora.targets"),
        ({"rank": 2}, {}, r"phases.aft.lora.alpha: required"),
        ({"rank": 2, "alpha": 4.0, "rnk": 1}, {}, r"phases.aft.lora.rnk: unknown field"),
    ],
)
def test_a_chain_that_cannot_run_is_refused_before_any_training(here, aft, more, message):
    with pytest.raises(InputError, match=message):
        checks.check_settings(experiment(aft=aft, **more))


@pytest.mark.parametrize(("aft", "how"), [(None, "merge"), ({"rank": 4, "alpha": 4.0}, "stack")])
def test_chains_that_merge_or_stack_are_taken(here, aft, how):
    checks.check_settings(experiment(aft=aft, adapter=how))
