"""Levels of others beside ours: what the report says of them, and what is refused."""

import io
import json

import pytest

from msm_jax.analysis import encode, findings, html, tables
from msm_jax.errors import InputError
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings

SOURCE = "a paper, <table 1>"
GIVEN = {
    "experiment": "beside",
    "seeds": [{"seed": seed} for seed in range(3)],
    "arms": {
        arm: {"grid": {"per_seed": [[high, high, 1.0, low]] * 3, "item_ids": list("abcd")}}
        for arm, high, low in (("aft", 1.0, 0.0), ("msm+aft", 0.0, 0.0))
    },
    "contrasts": {},
    "reference": [{"eval": "grid", "source": SOURCE, "levels": {"aft": 0.7, "msm+aft": 0.95}}],
}


def analysed(**changes):
    return findings.analyse({**GIVEN, **changes})


def test_the_report_sets_their_levels_beside_ours():
    found = analysed()
    rows = encode.content(found)["reference"]
    assert [(row["arm"], row["theirs"], row["ours"]) for row in rows] == [("aft", 0.7, 0.75), ("msm+aft", 0.95, 0.25)]
    assert [row["deviation"] for row in rows] == [pytest.approx(0.05), pytest.approx(-0.7)]
    for row in rows:
        low, high = row["ci95"]
        assert row["inside"] == (low <= row["theirs"] <= high)
    page = html.render(found)
    assert "a paper, &lt;table 1&gt;" in page
    assert "<table 1>" not in page
    terminal = io.StringIO()
    tables.print_report(json.loads(json.dumps(encode.content(found))), terminal)
    assert "Beside the levels of others" in terminal.getvalue()


def test_a_report_without_references_has_no_such_table():
    found = analysed(reference=[])
    assert encode.content(found)["reference"] == []
    assert "Beside the levels of others" not in html.render(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval": "gird"}, r"reference\[0\]\.eval: .*gird"),
        ({"levels": {"atf": 0.5}}, r"reference\[0\]\.levels: .*atf"),
        ({"levels": {"aft": 5.0}}, r"reference\[0\]\.levels\.aft: is 5\.0; a level lies between 0 and 1"),
        ({"levels": {}}, r"reference\[0\]: has no levels"),
        ({"source": " "}, r"reference\[0\]: has no source"),
    ],
)
def test_a_reference_that_names_nothing_is_refused(changes, words):
    reference = [{**GIVEN["reference"][0], **changes}]
    fields = {"name": "one", "seeds": (0,), "checkpoint": "c", "phases": {}, "arms": {"aft": (), "msm+aft": ()}}
    evals = {"grid": {"kind": "preference", "path": "p.jsonl"}}
    with pytest.raises(InputError, match=words):
        settings.build(ExperimentConfig, {**fields, "evals": evals, "reference": reference})
    with pytest.raises(InputError, match=words):
        analysed(reference=reference)


