"""Arms that branch from a step of a phase, trained for real: each equals the phase stopped there, bit for bit."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_experiments_lora import SMALL, phase
from test_training_kept_steps import stopped
from test_training_loop import assert_same_bits

from msm_jax.checkpoints import store
from msm_jax.errors import InputError
from msm_jax.experiments import gather, nodes
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.plan import Planner
from msm_jax.foundation import settings
from msm_jax.training import loop

STEPS = 6


def experiment(*doses, **changes):
    """An experiment whose arms midtrain for `doses`, elements of a chain, and then train on chats."""
    fields = {
        "name": "doses",
        "seeds": (0,),
        "tokenizer": {"path": "tokenizer"},
        "shared": ("pretrain",),
        "midtraining": ("msm",),
        "phases": {
            "pretrain": phase("documents", "documents", preset="mini-0.3m", model_overrides=SMALL),
            "msm": phase("documents", "documents") | {"steps": STEPS},
            "aft": phase("chats", "chats"),
        },
        "arms": {f"{dose}+aft": ("pretrain", dose, "aft") for dose in doses},
        "evals": {"prefer": {"kind": "preference", "path": "pairs.jsonl"}},
    }
    return settings.build(ExperimentConfig, fields | changes)


def run(config, workdir):
    """Runs in this process what is missing; returns {node: why} of what ran, and what is known."""
    steps, context = Planner(config, workdir, {}).plan()
    for step in steps:
        if step.task:
            kind, found = nodes.find(step.node.kind), context.addresses[step.node.id]
            missing = {name: address for name, address in found.items() if not kind.is_done(address)}
            kind.run(kind.arguments(step.node, missing, context), missing, lambda _: None)
    run_lib._write_record(steps, {}, workdir)
    return {step.node.id: step.why for step in steps if step.task and step.paths}, context


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_corpus, tiny_tokenizer):
    directory = tmp_path_factory.mktemp("branches")
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
    return directory


@pytest.fixture(autouse=True)
def here(files, monkeypatch):
    monkeypatch.chdir(files)
    return files


@pytest.fixture(scope="module")
def whole(files):
    """The experiment without branches, then with two, in one working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        first, _ = run(experiment("msm"), files / "work")
        run_dir = Path(run(experiment("msm"), files / "work")[1].checkpoint_of(("pretrain", "msm"), 0))
        before = {name: (run_dir / name).read_bytes() for name in ("result.json", "metrics.jsonl", "manifest.json")}
        last = store.latest(run_dir)
        second, context = run(experiment("msm@2", "msm@4", "msm"), files / "work")
    return first, second, context, run_dir, before, last


@pytest.mark.slow
def test_a_finished_phase_is_trained_again_to_the_steps_that_it_lacks_and_stays_what_it_was(whole, files):
    first, second, context, run_dir, before, last = whole
    assert set(first) == {
        *(f"phase/pretrain{rest}" for rest in ("", "/msm/seed0", "/msm/aft/seed0")), "eval/pretrain/msm/aft/seed0",
    }
    assert set(second) == {
        "phase/pretrain/msm/seed0",
        *(f"{kind}/pretrain/msm@{step}/aft/seed0" for kind in ("phase", "eval") for step in (2, 4)),
    }
    assert second["phase/pretrain/msm/seed0"] == "is trained again to step 2, 4"
    assert context.addresses["phase/pretrain/msm/seed0"][""].path == run_dir, "kept steps are no part of the address"
    assert store.latest(run_dir) == last
    assert {name: (run_dir / name).read_bytes() for name in before} == before
    assert run(experiment("msm@2", "msm@4", "msm"), files / "work")[0] == {}
    assert run(experiment("msm"), files / "work")[0] == {}


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4])
def test_a_branch_equals_the_same_config_stopped_at_that_step(whole, tmp_path, step):
    _, _, context, run_dir, _, _ = whole
    config = dataclasses.replace(context.phase_configs["phase/pretrain/msm/seed0"], keep_steps=(), log_every=1)
    other = stopped(config, tmp_path / "msm", step)
    assert other.name == str(step)
    assert_same_bits(store.at_step(run_dir, step), other)
    config = context.phase_configs[f"phase/pretrain/msm@{step}/aft/seed0"]
    assert config.init.checkpoint == str(run_dir / "checkpoints" / str(step))
    config = dataclasses.replace(config, init=dataclasses.replace(config.init, checkpoint=str(other)))
    result = loop.train(config, tmp_path / "aft")
    ours = context.addresses[f"phase/pretrain/msm@{step}/aft/seed0"][""].path
    assert_same_bits(store.latest(ours), result.checkpoint)


@pytest.mark.slow
def test_the_tokens_of_a_branch_are_those_read_by_its_step(whole, files):
    run_dir = whole[3]
    _, context = run(experiment("msm@2", "msm@4", "msm"), files / "work")
    results, missing = gather.results(context.config, files / "work")
    assert not missing
    for step in (2, 4):
        read = store.read_info(store.at_step(run_dir, step))["totals"]["tokens"]
        assert results["arm_tokens"][f"msm@{step}+aft"]["midtraining"] == read
    tokens = [results["arm_tokens"][f"{dose}+aft"]["midtraining"] for dose in ("msm@2", "msm@4", "msm")]
    assert tokens == sorted(set(tokens))


def test_the_last_step_of_a_phase_is_its_end():
    ends, plain = (graph_lib.build(experiment(dose)) for dose in (f"msm@{STEPS}", "msm"))
    assert list(ends.phases) == list(plain.phases) and list(ends.measurements) == list(plain.measurements)
    assert all(phase.keep_steps == () for phase in ends.phases.values())


def test_evals_after_a_phase_are_measured_at_its_branch_and_shared_phases_branch():
    config = experiment(
        "msm@2",
        arms={"a": ("pretrain@1", "msm@2", "aft"), "b": ("pretrain@1",)},
        evals={"prefer": {"kind": "preference", "after": {"msm": "pairs.jsonl", "pretrain": "pairs.jsonl"}}},
    )
    graph = graph_lib.build(config)
    assert {each.id for each in graph.measurements.values()} == {"eval/pretrain@1", "eval/pretrain@1/msm@2/seed0"}
    assert {phase.id: phase.keep_steps for phase in graph.phases.values()} == {
        "phase/pretrain": (1,), "phase/pretrain@1/msm/seed0": (2,), "phase/pretrain@1/msm@2/aft/seed0": (),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dose", "message"),
    [
        ("msm@7", "arms.msm@7\\+aft: msm has no step 7; its steps are 1 to 6"),
        ("msm@0", "msm has no step 0"),
        ("mms@2", "'mms' is unknown; did you mean msm"),
        ("msm@", "'msm@' is unknown"),
    ],
)
def test_a_step_that_a_phase_does_not_have_is_refused(dose, message):
    with pytest.raises(InputError, match=message):
        experiment(dose)


def test_a_name_that_looks_like_a_step_and_two_steps_in_one_chain_are_refused():
    phases = {name: phase("documents", "documents") for name in ("pretrain", "msm", "aft", "msm@300")}
    with pytest.raises(InputError, match='phases: "msm@300" ends in "@" and digits'):
        experiment("msm", phases=phases)
    with pytest.raises(InputError, match="phase msm occurs twice"):
        experiment("msm", arms={"a": ("pretrain", "msm@2", "msm@4")})
