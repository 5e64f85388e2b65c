"""Whole runs of an experiment with stand-ins for training and scoring: what runs, what is reused and why."""

import json
import re
import shutil
from pathlib import Path

import pytest
from experiments_small import EVERYTHING, FAKES, dry, enter, fields, phase, run, write_files
from rich.console import Console

from msm_jax.analysis import plots
from msm_jax.errors import InputError, WorkError
from msm_jax.experiments import gather
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.nodes import phase as phase_node
from msm_jax.foundation import hashing, settings, storage


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_corpus):
    """A directory with small files of a user's own, and the finished experiment on them in `run`."""
    directory = tmp_path_factory.mktemp("finished")
    write_files(directory, tiny_corpus)
    with pytest.MonkeyPatch.context() as patch:
        enter(directory, patch)
        assert run() == EVERYTHING
    return directory


@pytest.fixture
def here(tmp_path, monkeypatch, finished):
    """A copy of `finished`, whose plots are not drawn again."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    enter(tmp_path, monkeypatch)
    monkeypatch.setattr(plots, "render", lambda findings: {})
    return tmp_path


@pytest.fixture
def nothing_ran(here):
    """The same files without the finished experiment."""
    shutil.rmtree("run")
    Path("ran.log").unlink()
    return here


def test_it_runs_once_and_then_reuses_everything(here):
    report = Path("run/report.json").read_bytes()
    stamp = Path("run/report.html").stat().st_mtime_ns
    assert run() == []
    assert Path("run/report.html").stat().st_mtime_ns == stamp
    assert Path("run/report.json").read_bytes() == report
    content = json.loads(report)
    assert content["arms"]["base"]["prefer"]["mean"] == pytest.approx(0.415)
    assert content["contrasts"]["documents"]["diff"] == pytest.approx(0.5)
    assert content["arms"]["msm"]["prefer"]["measures"]["nats"]["mean"] == pytest.approx(9.0)
    assert content["seeds"] == [{"world": None, "pretrain": content["seeds"][0]["pretrain"], "seed": s} for s in (0, 1)]
    assert set(content["arms"]["msm"]) == {"prefer", "knowledge"}
    assert set(content["arms"]["aft"]) == {"prefer"}
    assert content["arms"]["msm+aft"]["knowledge"]["n_items"] == 4
    assert content["cost"]["aft"]["optimizer_steps"] == 4 * 5
    samples = {str(path.relative_to("run/samples")) for path in Path("run/samples").rglob("*.jsonl")}
    assert {"base/shared/prefer.jsonl", "msm+aft/0/knowledge.jsonl", "msm+aft/1/prefer.jsonl"} <= samples


def test_two_working_directories_report_the_same_but_for_times(here):
    assert run("other") == EVERYTHING
    assert Path("run/report.json").read_bytes() == Path("other/report.json").read_bytes()


def test_a_moved_working_directory_is_still_done(here):
    shutil.move("run", "elsewhere")
    assert run("elsewhere") == []


def test_changing_one_arms_phase_reruns_that_arm_alone(here):
    changed = fields()["phases"] | {"msm": phase(11)}
    rows, _ = dry(phases=changed)
    assert "config.steps changed 10 -> 11" in rows["phase/pretrain/msm"][1]
    assert "the phase before it changed" in rows["phase/pretrain/msm/aft"][1]
    assert rows["phase/pretrain/aft"][0] == "reuse"
    ran = run(phases=changed)
    assert all("msm" in word or word == "data" for word in ran)
    assert sum(word.startswith("phase:") for word in ran) == 4
    # And back: the old results are still there.
    assert run() == []


def test_a_contrast_that_was_added_after_there_was_a_report_is_marked(here):
    late = {"late": {"eval": "prefer", "terms": {"msm": 1, "aft": -1}}}
    for _ in range(2):
        assert run(contrasts=fields()["contrasts"] | late) == []
        found = json.loads(Path("run/report.json").read_text())["contrasts"]
        assert {name for name, entry in found.items() if not entry["planned"]} == {"late"}
        assert Path("run/report.html").read_text().count("Added after there were results") == 1
    mean = {"mean": {"mean_of": ("documents", "late")}}
    assert run("other", contrasts=fields()["contrasts"] | late | mean) == EVERYTHING
    assert all(entry["planned"] for entry in json.loads(Path("other/report.json").read_text())["contrasts"].values())
    late["late"]["terms"] = {"msm": 1, "base": -1}
    assert run("other", contrasts=fields()["contrasts"] | late | mean) == []
    found = json.loads(Path("other/report.json").read_text())["contrasts"]
    assert {name for name, entry in found.items() if not entry["planned"]} == {"late", "mean"}


def test_what_items_share_is_read_from_their_file_and_its_lack_is_said(here):
    config = settings.build(ExperimentConfig, fields())
    results, _ = gather.results(config, Path("run").absolute())
    assert any(warning.startswith("prefer: its items are not in pairs.jsonl") for warning in results["warnings"])
    ids = results["arms"]["msm"]["prefer"]["item_ids"]
    pair = json.loads(Path("pairs.jsonl").read_text())
    rows = [pair | {"id": item_id, "meta": {"domain": f"d{n % 2}"}} for n, item_id in enumerate(ids)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results, _ = gather.results(config, Path("run").absolute())
    options = ("option: Colby", "option: Brie")
    assert results["arms"]["msm"]["prefer"]["labels"] == [(f"domain: d{n % 2}", *options) for n in range(len(ids))]
    assert not any("prefer: its items" in warning for warning in results["warnings"])


def test_a_dry_run_says_which_difference_can_be_seen(nothing_ran, capsys):
    config = settings.build(ExperimentConfig, fields())
    run_lib.dry_run(config, Path("new"), Console(highlight=False, width=200))
    text = capsys.readouterr().out
    assert re.search(r"power: prefer, 2 seeds × 1 items: a difference of two arms shows ", text)
    assert "power assumes that a difference varies by 7 points over seeds" in text


def test_a_new_eval_runs_alone(here):
    evals = fields()["evals"] | {"greedy": {"kind": "preference_greedy", "path": "pairs.jsonl"}}
    ran = run(evals=evals)
    assert len(ran) == 7
    assert all(word.startswith("eval:") and word.endswith("greedy") for word in ran)


def test_changed_items_rerun_their_eval_alone(here):
    Path("knowledge.jsonl").write_text(Path("knowledge.jsonl").read_text() * 2)
    rows, _ = dry()
    assert "knowledge: items changed" in rows["eval/pretrain/msm"][1]
    assert run() == [f"eval:eval/pretrain/msm/seed{s}/knowledge" for s in (0, 1)]


def test_changed_data_reruns_what_reads_it(here):
    with Path("chats.jsonl").open("a") as file:
        chat = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Colby."}]
        file.write(json.dumps({"messages": chat}) + "\n")
    assert "texts changed" in dry()[1]
    ran = run()
    # The tokenizer read the chats too, so everything after it is another experiment.
    assert ran == EVERYTHING


def test_data_of_one_phase_alone(here):
    shutil.copy("documents.jsonl", "more.jsonl")
    phases = fields()["phases"] | {"msm": phase(10, "more")}
    run(phases=phases)
    with Path("more.jsonl").open("a") as file:
        file.write(json.dumps({"text": "One more."}) + "\n")
    rows, _ = dry(phases=phases)
    assert "data changed: more" in rows["phase/pretrain/msm"][1]
    ran = run(phases=phases)
    assert sum(word.startswith("phase:") for word in ran) == 4
    assert all("msm" in word or word == "data" for word in ran)


def test_seeds_are_added_without_running_the_others_again(here):
    ran = run(seeds=(0, 1, 2))
    assert len(ran) == 3 - 1 + 3 + 4
    assert all("seed2" in word or word == "data" for word in ran)


def test_a_lost_checkpoint_runs_again(here):
    (directory,) = Path("run/phases").glob("aft.seed1-*")
    shutil.rmtree(directory)
    assert [word for word in run() if word != "data"] == ["phase:phase/pretrain/aft/seed1"]


def test_sources_are_named_when_they_change(here, monkeypatch):
    real = hashing.sources_of

    def edited(module, root=hashing.PACKAGE_ROOT):
        found = real(module, root)
        return {**found, "msm_jax/training/step.py": "0" * 64} if module == "msm_jax.training.loop" else found

    monkeypatch.setattr(hashing, "sources_of", edited)
    rows, _ = dry()
    assert "source msm_jax/training/step.py changed" in rows["phase/pretrain"][1]
    assert {row[0] for node, row in rows.items() if node.startswith("phase/")} == {"run"}
    assert rows["tokenizer"][0] == "reuse"


def test_versions_of_jax_are_part_of_the_address(here, monkeypatch):
    real = phase_node.versions

    def newer(*packages):
        return {name: "9.9" if name == "jax" else version for name, version in real(*packages).items()}

    monkeypatch.setattr(phase_node, "versions", newer)
    rows, _ = dry()
    assert f"jax changed {real('jax')['jax']} -> 9.9" in rows["phase/pretrain"][1]


def test_a_dry_run_makes_nothing_and_says_what_will_run(here):
    rows, text = dry("new")
    assert not Path("new").exists()
    assert {row[0] for row in rows.values()} == {"run"}
    assert "15 to run, 0 reused" in text
    assert f"{20 * 128:,}" in rows["phase/pretrain"][1]
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    rows, text = dry()
    assert {row[0] for row in rows.values()} == {"reuse"}
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


def test_a_narrow_terminal_folds_names_and_cuts_no_number(here):
    with open("narrow.txt", "w") as file:
        run_lib.dry_run(settings.build(ExperimentConfig, fields()), Path("new"), Console(file=file, width=48))
    lines = Path("narrow.txt").read_text().splitlines()
    tokens = [word for line in lines for word in line.split() if "," in word and word[0].isdigit()]
    assert f"{20 * 128:,}" in tokens


def test_a_dry_run_plans_without_what_is_missing_and_lists_it(nothing_ran, capsys):
    Path("chats.jsonl").unlink()
    Path("pairs.jsonl").unlink()
    provide = (("pairs.jsonl", "pairs of your own; write them as docs/evals.md says"),)
    with pytest.raises(InputError, match=r"^2 of the files that this experiment needs do not exist"):
        run_lib.dry_run(
            settings.build(ExperimentConfig, fields(provide=provide)), Path("new"), Console(highlight=False, width=200)
        )
    text = capsys.readouterr().out
    assert "phase/pretrain/aft" in text
    assert "15 to run" not in text  # the tokenizer's own inputs are among what is missing
    assert re.search(r"phase/pretrain +1 +run +20 +2,560", text)
    assert "missing: chats.jsonl: no such file; check the path" in text
    assert "missing: pairs.jsonl: does not exist; pairs of your own; write them" in text
    assert not Path("new").exists()
    with pytest.raises(InputError, match=r"^chats.jsonl: no such file.* \(and 1 more; --dry_run lists them all\)$"):
        run(provide=provide)


def test_tokens_of_an_arm_are_those_that_its_phases_read(here):
    """Not the slots of their batches: the stand-in for training reads 100 tokens a step."""
    config = settings.build(ExperimentConfig, fields())
    results, _ = gather.results(config, Path("run").absolute())
    steps = {name: phase["steps"] for name, phase in config.phases.items()}
    assert results["arm_tokens"]["msm+aft"] == {"last": 100 * steps["aft"], "midtraining": 100 * steps["msm"]}
    assert results["arm_tokens"]["aft"] == {"last": 100 * steps["aft"], "midtraining": 0}
    assert results["arm_tokens"]["msm"] == {"midtraining": 100 * steps["msm"]}
    assert results["arm_tokens"]["base"] == {}


def test_a_failed_phase_stops_the_run_and_the_next_one_continues(nothing_ran, monkeypatch):
    monkeypatch.setenv("EXPERIMENT_FAIL", "phase/pretrain/msm/seed1")
    with pytest.raises(WorkError, match="phase/pretrain/msm/seed1: loss is not finite at step 3"):
        run()
    monkeypatch.delenv("EXPERIMENT_FAIL")
    ran = run()
    assert "phase:phase/pretrain" not in ran
    assert "phase:phase/pretrain/msm/seed1" in ran
    assert run() == []


def test_data_that_grows_while_an_experiment_runs_is_refused_and_read_by_the_next_run(nothing_ran, monkeypatch):
    """A result would have the address of other data."""
    monkeypatch.setitem(FAKES, "phase", "experiments_nodes:phase_while_data_grows")
    with pytest.raises(InputError, match=r"^documents\.jsonl: changed after the run was planned; run the same"):
        run()
    monkeypatch.undo()
    enter(nothing_ran, monkeypatch)
    assert "phase:phase/pretrain" in run()
    assert run() == []


def test_another_experiments_directory_is_refused(here):
    with pytest.raises(InputError, match="belongs to experiment cheap, not other"):
        run(name="other")
    with pytest.raises(InputError, match="belongs to experiment cheap, not other"):
        dry(name="other")
    Path("training").mkdir()
    Path("training/manifest.json").write_text("{}")
    with pytest.raises(InputError, match="holds a training run"):
        run("training")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": fields()["phases"] | {"aft": phase(0)}}, "phases.aft: steps = 0"),
        (
            {"phases": fields()["phases"] | {"aft": phase(5, stepz=1)}},
            "phases.aft.stepz: unknown field; did you mean steps",
        ),
        ({"phases": fields()["phases"] | {"aft": phase(5, "nowhere")}}, "nowhere.jsonl"),
        ({"phases": fields()["phases"] | {"aft": phase(5, preset="mini-0.3m")}}, "phases.aft: preset is set"),
        ({"evals": {"prefer": {"kind": "preference", "path": "gone.jsonl"}}, "contrasts": {}}, "gone.jsonl"),
        ({"tokenizer": {"vocab_size": 320, "train_on": ("gone.jsonl",)}}, "gone.jsonl"),
        ({"tokenizer": {"path": "gone"}}, "gone"),
    ],
)
def test_bad_settings_and_files_are_refused_before_anything_is_made(nothing_ran, changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        run(**changes)
    assert not Path("run").exists()


def test_the_report_is_rendered_again_and_refused_where_there_is_none(here):
    with pytest.raises(InputError, match="holds no experiment"):
        run_lib.load(Path("nowhere"))
    report = Path("run/report.json").read_bytes()
    for name in ("report.json", "report.html"):
        Path("run", name).unlink()
    assert run_lib.render(run_lib.load(Path("run")), Path("run")) == []
    assert Path("run/report.json").read_bytes() == report
    shutil.rmtree("run/evals")
    with pytest.raises(InputError, match="no eval has a result yet"):
        run_lib.render(run_lib.load(Path("run")), Path("run"))


def test_dose_curves_costs_and_contrasts_come_with_the_results(here):
    asked = {
        "contrasts": {
            "documents": {"eval": "prefer", "terms": {"msm+aft": 1.0, "aft": -1.0}},
            "nats": {"eval": "prefer", "terms": {"msm+aft": 1.0, "aft": -1.0}, "measure": "nats"},
            "again": {"eval": "prefer", "terms": {"msm": 1.0, "base": -1.0}},
            "mean": {"mean_of": ("documents", "again")},
            "equal": {"eval": "prefer", "equal_level": {"more": (("base", "msm"),), "less": (("base", "aft"),)}},
        },
        "curves": {"c": {"x": (0, 10), "xlabel": "d", "series": {"s": ("base", "msm")}, "evals": ("prefer",)}},
        "expectations": {"level": {"eval": "prefer", "arm": "base", "min": 0.4, "max": 0.5}},
    }
    assert run(**asked) == []
    content = storage.read_json(Path("run/report.json"))
    diffs = {name: entry["diff"] for name, entry in content["contrasts"].items()}
    assert diffs == {"documents": 0.5, "nats": 5.0, "again": 0.5, "mean": 0.5, "equal": 0.5}
    assert [level["mean"] for level in content["curves"]["c"]["evals"]["prefer"]["s"]] == [0.415, 0.915]
    assert content["expectations"] == {"level": "met"}
    cost = content["arm_cost"]["msm+aft"]
    assert (cost["since"], cost["own"]["optimizer_steps"], cost["total"]["optimizer_steps"]) == ("base", 15, 35)
    assert cost["levels"]["prefer"]["change"] == pytest.approx(0.5)
    assert content["arm_cost"]["base"]["since"] is None
    shutil.rmtree(*Path("run/evals").glob("msm.seed0-*"))
    shutil.rmtree(*Path("run/evals").glob("msm.seed1-*"))
    missing = run_lib.render(run_lib.load(Path("run")), Path("run"))
    assert missing[-4:] == ["contrast again", "contrast mean", "contrast equal", "curves c"]
    run()


def test_a_partial_report_says_what_is_missing(here):
    (directory,) = Path("run/evals").glob("msm.aft.seed1-*")
    shutil.rmtree(directory)
    missing = run_lib.render(run_lib.load(Path("run")), Path("run"))
    assert missing == ["prefer of msm+aft in seed 1"]
    content = storage.read_json(Path("run/report.json"))
    assert content["arms"]["msm+aft"]["prefer"]["per_seed"][1] is None
    assert any("Not finished: prefer of msm+aft in seed 1" in warning for warning in content["warnings"])
    assert run() == ["eval:eval/pretrain/msm/aft/seed1/prefer"]
    assert storage.read_json(Path("run/report.json"))["arms"]["msm+aft"]["prefer"]["per_seed"][1] is not None


def test_a_judge_that_cannot_be_asked_is_listed_and_refused(nothing_ran):
    """A dry run shows the whole plan before it; a run refuses before any work."""
    qa = {"kind": "open_qa", "judge": {"model": "python:no_such:judge", "version": "1"}}
    changed = {"evals": {**fields()["evals"], "qa": qa}}
    with pytest.raises(InputError, match="1 of the judges of this experiment cannot be asked"):
        dry(**changed)
    text = Path("dry.txt").read_text()
    assert "missing: evals.qa.judge.model: python:no_such:judge: No module named 'no_such'" in text
    assert "replies: qa: 7 checkpoints × 21; 147k tokens at 1,000 each (assumed)" in text
    with pytest.raises(InputError, match=r"^evals\.qa\.judge\.model: python:no_such:judge"):
        run(**changed)
    assert not Path("ran.log").exists()
