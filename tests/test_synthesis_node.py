"""An experiment whose corpus names a spec and a writer generates, trains and measures, and pays for nothing twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import experiments_small
import pytest
import synthesis_small as small

from msm_jax import cli
from msm_jax.analysis import plots
from msm_jax.errors import InputError, WorkError
from msm_jax.experiments import checks, nodes
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings

LOG = "asked.log"


def corpus(**fields: Any) -> dict[str, Any]:
    """Returns a corpus of the small spec, written by the writer of tests, which logs what it is asked."""
    writer = {"log": str(Path(LOG).absolute()), **fields.pop("writer", {})}
    return {"kind": "synthesis", "documents": settings.to_json(small.settings_of(Path("calm.md"), writer, **fields))}


def run(**changes: Any) -> tuple[list[str], list[str]]:
    """Runs an experiment of one phase on the corpus; returns what ran, and what the writer was asked in this call."""
    before = len(asked())
    evals = {"prefer": {"kind": "preference", "path": "pairs.jsonl"}}
    path = "{calm}/documents.jsonl"
    phase = experiments_small.phase(5, preset="mini-0.3m")
    phase["data"]["sources"]["documents"]["path"] = path
    given = {
        "corpora": {"calm": corpus()}, "phases": {"msm": phase}, "shared": (), "arms": {"msm": ("msm",)}, "seeds": (0,),
        "evals": evals, "contrasts": {}, "tokenizer": {"vocab_size": 400, "train_on": (path,)}, **changes,
    }  # fmt: skip
    ran = experiments_small.run(**given)
    return ran, asked()[before:]


def asked() -> list[str]:
    """Returns a line for each call that the writer has answered."""
    return Path(LOG).read_text().splitlines() if Path(LOG).exists() else []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a spec and items, which is the working directory."""
    experiments_small.enter(tmp_path, monkeypatch)
    monkeypatch.setattr(plots, "render", lambda findings: {})
    (tmp_path / "calm.md").write_text(small.SPEC)
    line = '{"question": "{first} or {second}?", "options": ["the old one", "the new one"], "favoured": 0}\n'
    (tmp_path / "pairs.jsonl").write_text(line * 2)
    (tmp_path / "ran.log").touch()
    return tmp_path


def test_a_spec_becomes_a_corpus_that_is_trained_on_and_paid_for_once(here: Path):
    ran, calls = run()
    assert ran == ["data", "eval:eval/msm/seed0/prefer", "phase:phase/msm/seed0"]
    assert len(calls) > 24 and Counter(calls).most_common(1)[0][1] == 1
    assert run() == ([], [])
    other_plan = corpus(plan={"documents_per_assertion": 2, "list_tokens": 4096}, run={"concurrency": 3})
    assert run(corpora={"calm": other_plan}) == ([], []), "replies that are in the store were asked for again"


def test_another_experiment_with_the_store_pays_only_for_what_is_new(here: Path):
    _, first = run(store="store")
    both = corpus(text={"corpora": ("documents", "neutral")})
    ran, calls = run(workdir="other", store="store", corpora={"calm": both})
    assert len(calls) == 24
    assert set(calls).isdisjoint(first)
    assert ran == [], "the documents are the same, and so are the phase and its eval"


def test_a_writer_that_fails_keeps_what_was_paid_for(here: Path):
    with pytest.raises(WorkError, match=r"status 401.*20 replies are kept.*run the same command again"):
        run(corpora={"calm": corpus(writer={"stop_after": 20})})
    assert len(asked()) == 20
    _, calls = run()
    assert set(calls).isdisjoint(asked()[:20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.pop("documents"), "corpora.calm: needs exactly one of documents and demonstrations"),
        (lambda fields: fields.update(docs={}), "corpora.calm.docs: unknown field; did you mean documents?"),
        (lambda fields: fields["documents"].update(mode="x"), "corpora.calm.documents.mode: 'x'"),
        (lambda fields: fields["documents"]["spec"].update(path="none.md"), "none.md: no such file"),
    ],
)
def test_settings_of_a_corpus_are_refused_before_work(change: Any, message: str, here: Path):
    fields = corpus()
    change(fields)
    with pytest.raises(InputError) as refused:
        run(corpora={"calm": fields})
    assert message in str(refused.value)
    assert not asked() and not list(Path().glob("run/corpora/*"))


def test_a_dry_run_shows_the_price(here: Path):
    prices = {"python:synthesis_writer:opened": {"input": 1000.0, "output": 1000.0}}
    path = "{calm}/documents.jsonl"
    phase = experiments_small.phase(5, preset="mini-0.3m")
    phase["data"]["sources"]["documents"]["path"] = path
    rows, text = experiments_small.dry(
        corpora={"calm": corpus(run={"prices": prices})}, phases={"msm": phase}, shared=(), arms={"msm": ("msm",)},
        tokenizer={"vocab_size": 400, "train_on": (path,)}, contrasts={}, midtraining=("msm",),
        evals={"prefer": {"kind": "preference", "path": "pairs.jsonl"}},
    )  # fmt: skip
    (summary,) = (line for line in text.splitlines() if " to run, " in line)
    assert rows["calm"][0] == "run" and "$" in rows["calm"][1] and "$" in summary


def test_the_config_from_a_spec_to_the_report_is_short_and_is_accepted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(experiments_small.ROOT)
    file = "configs/experiments/from_spec.py"
    assert len(Path(file).read_text().splitlines()) < 60
    config = settings.build(ExperimentConfig, cli.load_config({"config": file}))
    known = checks.check_settings(config)
    corpora = [node for node in known.graph.nodes if node.kind == "synthesis"]
    assert {node.id for node in corpora} == {"texts", "talks"}
    for node in corpora:
        assert nodes.find(node.kind).cost(node, {}, known).tokens > 0
