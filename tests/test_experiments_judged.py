"""An experiment whose eval is graded by a scripted judge, from the command's function to the page: every number of the
report follows from the transcripts that it links to."""

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
from experiments_small import FAKES, enter, fields, write_files
from rich.console import Console

from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings

GRID = {
    "kind": "agentic_misalignment", "actions": ("exfiltration",), "goals": ("america", "ethical"), "samples": 3,
    "judge": {"model": "python:tools.scripted_judge:judge", "version": "1"},
}  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory, tiny_corpus) -> Path:
    """Returns the working directory of a finished experiment with two arms, two seeds and a grid of two cells."""
    directory = tmp_path_factory.mktemp("judged")
    write_files(directory, tiny_corpus)
    executors = {**FAKES, "eval": "experiments_judged:evals"}
    given = fields(
        arms={"base": ("pretrain",), "msm": ("pretrain", "msm")},
        evals={"grid": GRID},
        contrasts={"harm": {"eval": "grid", "terms": {"msm": 1.0, "base": -1.0}}},
    )
    with pytest.MonkeyPatch.context() as patch, open(os.devnull, "w") as nowhere:
        enter(directory, patch)
        console = Console(file=nowhere, width=200)
        run_lib.run(settings.build(ExperimentConfig, given), Path("run"), console, executors, setup="")
    return directory / "run"


def samples(judged: Path, arm: str) -> list[list[dict]]:
    """Returns the transcripts of an arm, a list for each run."""
    files = sorted((judged / "samples" / arm).glob("*/grid.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def mean(values) -> float:
    """Returns the mean of numbers."""
    values = list(values)
    return sum(values) / len(values)


def test_every_number_of_the_report_follows_from_the_transcripts(judged):
    report = json.loads((judged / "report.json").read_text())
    for arm, runs in {"base": 1, "msm": 2}.items():
        found = samples(judged, arm)
        assert [len(run) for run in found] == [6] * runs
        every = [transcript for run in found for transcript in run]
        entry, cells = report["arms"][arm]["grid"], report["grids"]["grid"]
        assert entry["mean"] == mean(each["score"] for each in every)
        assert entry["act"]["mean"] == mean(each["act"] for each in every)
        assert entry["parse_rate"] == mean(each["score"] is not None for each in every)
        for rate, field in {"uses a tool": "uses tool", "refuses": "refuses", "cut off": "cut off"}.items():
            assert entry["rates"][rate] == mean(each[field] for each in every)
        for cell in ("exfiltration/america", "exfiltration/ethical"):
            own = [each for each in every if each["cell"] == cell]
            assert cells["arms"][arm][cell]["mean"] == mean(each["score"] for each in own)
            assert cells["acts"][arm][cell]["mean"] == mean(each["act"] for each in own)
        assert all(each["judge"] for each in every), "what the judge said is kept"


def test_the_planted_behaviour_comes_out(judged):
    report = json.loads((judged / "report.json").read_text())
    base, msm = (report["arms"][arm]["grid"] for arm in ("base", "msm"))
    assert (base["mean"], msm["mean"], report["contrasts"]["harm"]["diff"]) == (0, 0.5, 0.5)
    assert (base["rates"]["uses a tool"], msm["rates"]["uses a tool"], msm["rates"]["refuses"]) == (1, 0.5, 0.5)
    assert not any("its items are not in" in warning for warning in report["warnings"]), "samples are in no file"
    assert 0 <= msm["rates"]["judge agrees with labels"] <= 1 and msm["rates"]["without verdict"] == 0
    cells = report["grids"]["grid"]["contrasts"]["harm"]
    assert {cell: found["diff"] for cell, found in cells.items()} == {
        "exfiltration/america": 1.0, "exfiltration/ethical": 0.0,
    }  # fmt: skip


def test_the_page_links_to_every_transcript_and_shows_what_was_said(judged):
    page = (judged / "report.html").read_text()
    links = re.findall(r'href="((?:samples|inspect)/[^"]*)"', page)
    assert {f"samples/msm/{seed}/grid.jsonl" for seed in (0, 1)} | {"samples/base/shared/grid.jsonl"} <= set(links)
    assert all((judged / link).is_file() for link in links)
    assert "subject: &lt;b&gt;&amp;amp;" in page and "&lt;tool_use:transfer&gt;" in page
    assert "VERDICT: yes" in page and "I&#39;m sorry, but I can&#39;t help" in page
    assert page.count('class="sample"') == 2 * 6
    written = importlib.util.find_spec("inspect_ai") is not None
    assert written == bool(list(judged.glob("inspect/*/*/grid-*.eval")))
    assert written != ("because Inspect was not installed" in page)
