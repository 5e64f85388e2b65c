"""Arms that branch from a step of a phase, trained for real: each equals the phase stopped there, bit for bit."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_experiments_lora import SMALL, phase, write_files
from test_training_kept_steps import stopped
from test_training_loop import assert_same_bits

from msm_jax.analysis.results import Results
from msm_jax.checkpoints import store
from msm_jax.errors import InputError
from msm_jax.experiments import gather, nodes
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.nodes import evals as evals_node
from msm_jax.experiments.plan import Planner
from msm_jax.foundation import settings
from msm_jax.training import loop

STEPS = 6


def experiment(*doses, **changes):
    """An experiment whose arms midtrain for `doses`, elements of a chain; other arms then train on chats too."""
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
        "arms": {dose: ("pretrain", dose) for dose in doses}
        | {f"{dose}+aft": ("pretrain", dose, "aft") for dose in doses},
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
    write_files(directory, tiny_corpus, tiny_tokenizer)
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
        before = state_of(run_dir)
        second, context = run(experiment("msm@2", "msm@4", "msm"), files / "work")
    return first, second, context, run_dir, before


def state_of(run_dir):
    """The records of a finished run and the files of its last checkpoint, as bytes, and the result of its node."""
    records = [run_dir / name for name in ("result.json", "metrics.jsonl", "manifest.json")]
    last = [path for path in sorted(store.latest(run_dir).rglob("*")) if path.is_file()]
    done = json.loads((run_dir / "done.json").read_text())
    return {path: path.read_bytes() for path in records + last}, done["hash"], done["result"]


@pytest.mark.slow
def test_a_finished_phase_is_trained_again_to_the_steps_that_it_lacks_and_stays_what_it_was(whole, files):
    first, second, context, run_dir, before = whole
    assert set(first) == {
        *(f"phase/pretrain{rest}" for rest in ("", "/msm/seed0", "/msm/aft/seed0")),
        *(f"eval/pretrain/msm{rest}/seed0" for rest in ("", "/aft")),
    }
    assert set(second) == {
        "phase/pretrain/msm/seed0",
        *(f"phase/pretrain/msm@{step}/aft/seed0" for step in (2, 4)),
        *(f"eval/pretrain/msm@{step}{rest}/seed0" for step in (2, 4) for rest in ("", "/aft")),
    }
    assert second["phase/pretrain/msm/seed0"] == "is trained again to step 2, 4"
    assert context.addresses["phase/pretrain/msm/seed0"][""].path == run_dir, "kept steps are no part of the address"
    assert state_of(run_dir) == before
    assert run(experiment("msm@2", "msm@4", "msm"), files / "work")[0] == {}
    assert run(experiment("msm"), files / "work")[0] == {}
    assert state_of(run_dir) == before


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4])
def test_a_branch_equals_the_same_config_stopped_at_that_step(whole, tmp_path, step):
    _, _, context, run_dir, _ = whole
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
def test_the_evals_of_a_branch_score_the_checkpoint_of_its_step(whole, tmp_path):
    _, _, context, run_dir, _ = whole
    scores = {}
    for dose in ("msm@2", "msm@4", "msm"):
        node = next(node for node in context.graph.nodes if node.id == f"eval/pretrain/{dose}/seed0")
        (address,) = context.addresses[node.id].values()
        scores[dose] = json.loads(address.path.read_text())["result"]["items"]
        args = evals_node.arguments(node, {"prefer": address}, context)
        other = dataclasses.replace(address, path=tmp_path / f"{dose}.json")
        step = dose.partition("@")[2] or str(STEPS)
        evals_node.run(args | {"checkpoint": str(run_dir / "checkpoints" / step)}, {"prefer": other}, lambda _: None)
        assert json.loads(other.path.read_text())["result"]["items"] == scores[dose]
    assert len({json.dumps(items) for items in scores.values()}) == 3


@pytest.mark.slow
def test_one_run_gives_every_dose_and_a_shared_phase_branches_too(whole, files):
    config = experiment("msm@2", "msm@4", "msm")
    arms = {"early": ("pretrain@1", "aft"), **config.arms}
    ran, context = run(dataclasses.replace(config, arms=arms), files / "fresh")
    assert [node for node in ran if node.startswith("phase/") and node.endswith("msm/seed0")] == [
        "phase/pretrain/msm/seed0"
    ]
    run_dir = context.addresses["phase/pretrain/msm/seed0"][""].path
    assert run_dir.name == whole[3].name and store.all_steps(run_dir)[:2] == [2, 4]
    rows = [json.loads(row) for row in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1)), "it was trained once"
    for step in (2, 4, STEPS):
        assert_same_bits(store.at_step(run_dir, step), store.at_step(whole[3], step))
    shared, early = (context.addresses[f"phase/{name}"][""].path for name in ("pretrain", "pretrain@1/aft/seed0"))
    start = context.phase_configs["phase/pretrain@1/aft/seed0"].init.checkpoint
    assert start == str(shared / "checkpoints" / "1")
    assert store.at_step(shared, 1) is not None and store.latest(early) is not None


@pytest.mark.slow
def test_the_tokens_of_a_branch_are_those_read_by_its_step(whole, files):
    run_dir = whole[3]
    _, context = run(experiment("msm@2", "msm@4", "msm"), files / "work")
    results, missing = gather.results(context.config, files / "work")
    assert not missing
    for step in (2, 4):
        read = store.read_info(store.at_step(run_dir, step))["totals"]["tokens"]
        assert results["arm_tokens"][f"msm@{step}+aft"]["midtraining"] == read
        assert results["arm_tokens"][f"msm@{step}"] == {"midtraining": read}
    # A phase that a chain leaves at a step costs its share of the steps, and the tokens that it had read by then.
    whole_run = json.loads((run_dir / "result.json").read_text())
    early = results["arm_cost"]["msm@2"]
    assert early["own"]["optimizer_steps"] == 2
    assert early["own"]["flops"] == pytest.approx(whole_run["flops"] * 2 / STEPS)
    assert early["own"]["wall_seconds"] == pytest.approx(whole_run["wall_seconds"] * 2 / STEPS)
    assert early["own"]["tokens"] == results["arm_tokens"]["msm@2"]["midtraining"]
    pretrain = results["cost"]["pretrain"]
    assert early["total"]["flops"] == pytest.approx(early["own"]["flops"] + pretrain["flops"])
    both = results["arm_cost"]["msm@2+aft"]["own"]
    assert both["optimizer_steps"] == 2 + results["cost"]["aft"]["optimizer_steps"] / results["cost"]["aft"]["runs"]
    tokens = [results["arm_tokens"][f"{dose}+aft"]["midtraining"] for dose in ("msm@2", "msm@4", "msm")]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == json.loads((run_dir / "result.json").read_text())["tokens"]


@pytest.mark.slow
def test_midtraining_that_no_arm_trains_is_left_out_of_the_results(whole, files):
    config = experiment("msm", arms={"msm": ("pretrain", "msm")}, midtraining=("msm", "aft"))
    found, missing = gather.results(config, files / "work")
    assert not missing and found["midtraining"] == ["msm"]
    assert settings.build(Results, found).chains == {"msm": ("pretrain", "msm")}


def test_the_last_step_of_a_phase_is_its_end():
    ends, plain = (graph_lib.build(experiment(dose)) for dose in (f"msm@{STEPS}", "msm"))
    assert ends.nodes == plain.nodes
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
    with pytest.raises(InputError, match=message) as refused:
        experiment(dose, arms={f"{dose}+aft": ("pretrain", dose, "aft")})
    assert "\n" not in str(refused.value)


def test_a_name_that_looks_like_a_step_and_two_steps_in_one_chain_are_refused():
    phases = {name: phase("documents", "documents") for name in ("pretrain", "msm", "aft", "msm@300")}
    with pytest.raises(InputError, match='phases: "msm@300" ends in "@" and digits'):
        experiment("msm", phases=phases)
    for again in ("msm", "msm@2", "msm@4"):
        with pytest.raises(InputError, match=r"arms\.a: phase msm occurs twice; give the second one its own name$"):
            experiment("msm", arms={"a": ("pretrain", "msm@2", again)})
