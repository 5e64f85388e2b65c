"""A code book in the graph of an experiment: made once of the transcripts of all arms, and read by every arm."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from experiments_small import FAKES, enter, fields, write_files
from rich.console import Console

from msm_jax.errors import InputError
from msm_jax.experiments import checks
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings

JUDGE = {"model": "python:test_evals_reasoning:scripted", "version": "1"}
GRID = {
    "kind": "agentic_misalignment", "actions": ("exfiltration",), "goals": ("america", "ethical"), "samples": 3,
    "judge": {"model": "python:tools.scripted_judge:judge", "version": "1"},
}  # fmt: skip
REASONS = {"kind": "reasoning", "of": GRID, "judge": JUDGE, "path": "{codes}/book.jsonl"}
BOOK = {"eval": "grid", "judge": JUDGE, "sample": 6, "batch": 2}


def config_of(**changes) -> ExperimentConfig:
    """Returns an experiment with two arms, two seeds, a grid, and reasons by a code book of its own."""
    own = {
        "workers": 1,
        "arms": {"base": ("pretrain",), "msm": ("pretrain", "msm")},
        "evals": {"grid": GRID, "reasons": REASONS},
        "code_books": {"codes": BOOK},
        "contrasts": {},
    }
    return settings.build(ExperimentConfig, fields(**{**own, **changes}))


def run(**changes) -> list[str]:
    """Brings the experiment in "run" up to date; returns the nodes that ran, without the seeds, in their order."""
    executors = {**FAKES, "eval": "experiments_judged:evals_with_reasons"}
    with open(os.devnull, "w") as nowhere:
        run_lib.run(config_of(**changes), Path("run"), Console(file=nowhere, width=200), executors, setup="")
    nodes = json.loads(Path("run/nodes.json").read_text())["nodes"]
    return list(dict.fromkeys(re.sub(r"/seed\d$", "", node["id"]) for node in nodes if node["status"] == "ran"))


def replies(file: Path) -> int:
    """Returns the number of replies that a journal holds."""
    with contextlib.closing(sqlite3.connect(file)) as journal:
        (table,) = journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()
        return journal.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]


def test_one_book_is_made_of_all_arms_and_every_arm_is_classified_by_it(tmp_path, monkeypatch, tiny_corpus):
    write_files(tmp_path, tiny_corpus)
    enter(tmp_path, monkeypatch)
    assert run()[-5:] == [
        "eval/pretrain", "eval/pretrain/msm", "code_book/codes", "eval/pretrain/{codes}", "eval/pretrain/msm/{codes}",
    ]  # fmt: skip
    (made,) = Path("run/code_books").glob("codes-*")
    book = [json.loads(line) for line in (made / "book.jsonl").read_text().splitlines()]
    assert {code["id"] for code in book} == {"serene", "deceit", "order"}
    assert json.loads((made / "result.json").read_text())["transcripts"] == [6, 12], "of both seeds"

    report = json.loads(Path("run/report.json").read_text())
    rates = {
        arm: {reason: each["rate"] for reason, each in found.items()}
        for arm, found in report["reasons"]["reasons"].items()
    }
    nothing = dict.fromkeys(("serene", "deceit", "order"), 0.0)
    assert rates == {"base": {**nothing, "serene": 1.0}, "msm": {**nothing, "deceit": 0.5, "order": 0.5}}
    page = Path("run/report.html").read_text()
    table = page[page.index('id="reasons"') : page.index('id="behind"')]
    assert "It is serene. Or: It is calm." in table and ">50<" in table
    assert "serene,1.0," in Path("run/tables/reasons.csv").read_text()

    own = [replies(file) for file in sorted(Path("run/evals").glob("*/replies.sqlite"))]
    journal = Path("run/replies/code_book-codes.sqlite")
    asked = replies(journal)
    shutil.rmtree(made)
    assert run() == ["code_book/codes"], "nothing else is left to do"
    assert replies(journal) == asked, "the judge is asked nothing twice"
    assert [replies(file) for file in sorted(Path("run/evals").glob("*/replies.sqlite"))] == own


def test_a_plan_says_what_the_judge_of_a_book_reads(tmp_path, monkeypatch, tiny_corpus, capsys):
    write_files(tmp_path, tiny_corpus)
    enter(tmp_path, monkeypatch)
    run_lib.dry_run(config_of(), Path("run"), Console(width=200))
    shown = capsys.readouterr().out
    assert "code_book/codes" in shown
    # 12 transcripts are read twice: 1,500 tokens and a reply of 500 each time.
    assert "replies: code book codes: the judge reads 36k tokens and writes 12k tokens" in shown
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code_books": {"codes": {**BOOK, "eval": "gird"}}}, "code_books.codes.eval: 'gird' is unknown; did you mean"),
        ({"code_books": {"codes": {**BOOK, "eval": "reasons"}}}, "reasons is not measured at the end of arms"),
        ({"code_books": {"codes": BOOK, "more": BOOK}}, "code_books.more: no eval reads it; set evals.EVAL.path to"),
        ({"code_books": {"a-b": BOOK}}, 'code_books: "a-b" must be a word'),
        ({"code_books": {"codes": {**BOOK, "judge": {**JUDGE, "version": "latest"}}}}, "codes.judge: model"),
        (
            {"evals": {"grid": {"kind": "preference", "path": "pairs.jsonl"}, "reasons": REASONS}},
            "code_books.codes.eval: grid is of the kind 'preference'; choose one of agentic_misalignment",
        ),
        (
            {"evals": {"grid": GRID, "reasons": {**REASONS, "counted": ["deceit"]}}},
            "evals.reasons.counted: the reasons of a code book that is to be made are not known",
        ),
        (
            {"evals": {"grid": GRID, "pairs": {"kind": "preference", "path": "{codes}/book.jsonl"}}},
            "evals.pairs.path: only evals of the kind reasoning read a code book",
        ),
    ],
)
def test_a_code_book_that_cannot_be_made_or_read_is_refused_in_one_line(changes, words):
    with pytest.raises(InputError, match=re.escape(words)):
        checks.check_settings(config_of(**changes))
