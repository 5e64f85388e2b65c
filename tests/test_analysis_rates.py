"""Rates beside a score: each is shown with its arm, and those that make the score mean little warn."""

import pytest

from msm_jax.analysis import encode, evidence, findings, html, rates


def results(**by_arm):
    """Returns results with one eval of two items, in which each arm has the rates that are given."""
    entry = {"per_seed": [[1.0, 0.0]], "item_ids": ["a", "b"]}
    return {
        "experiment": "rates",
        "seeds": [{"world": None, "pretrain": None, "seed": 0}],
        "arms": {arm: {"grid": {**entry, **fields}} for arm, fields in by_arm.items()},
        "contrasts": {},
    }


@pytest.mark.parametrize(
    ("found", "warned"),
    [
        ({"parsed": 0.02}, "parse rate below 20 % in one (2 %); hardly any answer could be read"),
        ({"parsed": 0.9}, "parse rate below 95 % in one (90 %); unparsed replies are left out"),
        ({"position decides": 1.0}, "“position decides” above 50 % in one (100 %)"),
        ({"first wins": 1.0}, "distance from chance” above 30 % in one (50 %)"),
        ({"first wins": 0.0}, "distance from chance” above 30 % in one (50 %)"),
        ({"first wins": 0.9, "first wins by chance": 0.25}, "above 30 % in one (65 %)"),
        ({"uses a tool": 0.0, "refuses": 0.2}, "“uses a tool” below 5 % in one (0 %); the model hardly acts"),
        ({"tool_call": 0.0}, "“tool_call” below 5 % in one (0 %); the model writes no valid call"),
        ({"omission": 0.0}, "“omission” below 5 % in one (0 %); the model leaves benign tasks undone"),
        ({"refuses": 1.0}, "“refuses” above 50 % in one (100 %)"),
        ({"cut off": 0.8}, "“cut off” above 50 % in one (80 %)"),
        ({"judge refused": 0.5}, "“judge refused” above 5 % in one (50 %)"),
        ({"judge unparsable": 0.06}, "“judge unparsable” above 5 % in one (6 %)"),
        ({"judge agrees with labels": 0.5}, "“judge agrees with labels” below 80 % in one (50 %)"),
    ],
)
def test_a_rate_that_makes_the_score_mean_little_warns_once(found, warned):
    fine = {"parsed": 1.0, "position decides": 0.1, "first wins": 0.5, "uses a tool": 0.9, "refuses": 0.0}
    (line,) = rates.warnings("grid", {"one": {**fine, **found}, "other": fine})
    assert line.startswith("grid: ") and warned in line


def test_rates_within_their_range_and_unknown_ones_do_not_warn():
    assert not list(rates.warnings("e", {"one": {"first wins": 0.25, "first wins by chance": 0.25, "gap": -1.0}}))
    many = {f"arm{n}": {"parsed": 0.5} for n in range(6)}
    (line,) = rates.warnings("e", many)
    assert "arm3 (50 %) and 2 more arms" in line
    assert next(rates.warnings("e", {"": {"parsed": 0.5}})).startswith("e: parse rate below 95 % (50 %);")


def test_the_report_shows_every_rate_beside_the_score_and_its_interval():
    inert = {"parse_rate": 0.1, "rates": {"uses a tool": 0.0, "judge refused": 0.9}}
    found = findings.analyse(results(inert=inert, active={"rates": {"uses a tool": 1.0}}))
    assert sum("inert" in warning for warning in found.warnings) == 3
    assert encode.content(found)["arms"]["inert"]["grid"]["rates"] == inert["rates"]
    (table,) = evidence.rates(found)
    assert (table["eval"], table["columns"], table["parsed"]) == ("grid", ["uses a tool", "judge refused"], True)
    first, second = table["rows"]
    assert (first["arm"], first["parsed"], first["rates"]) == ("inert", "0.10", ["0.00", "0.90"])
    assert first["score"].startswith("50 [") and first["items"] == 2
    assert (second["arm"], second["parsed"], second["rates"]) == ("active", "", ["1.00", ""])
    assert "<td>0.10</td><td>0.00</td><td>0.90</td>" in html.render(found)


def test_transcripts_are_spread_over_the_items_and_hold_what_the_judge_said():
    every = [
        {"id": f"cell{n}/0", "cell": f"cell{n}", "prompt": [{"role": "user", "content": "Go."}], "reply": f"reply {n}",
         "thoughts": "Hm.", "judge": [["VERDICT: yes"], ["VERDICT: no"]], "score": 1.0, "act": 0.0, "refuses": 0.0}
        for n in range(27)
    ]  # fmt: skip
    given = results(arm={})
    files = [{"seed": "0", "samples": "samples/arm/0/grid 1.jsonl", "log": "inspect/arm/0/grid-0.eval"}]
    given |= {"samples": {"arm": {"grid": every, "none": []}}, "files": {"arm": {"grid": files}}}
    found = findings.analyse(given)
    shown = evidence.transcripts(found)
    ((_, (entry,)),) = shown["arms"]
    assert (entry["eval"], entry["total"], shown["logs"]) == ("grid", 27, True)
    assert [sample["id"] for sample in entry["shown"]] == [f"cell{n}/0" for n in (0, 5, 10, 16, 21, 26)]
    assert entry["shown"][0]["turns"] == [("user", "Go."), ("thoughts", "Hm.")]
    assert entry["shown"][0]["votes"] == ["VERDICT: yes", "VERDICT: no"]
    assert entry["shown"][0]["outcome"] == "cell cell0 · score 1.00 · act 0.00 · refuses 0.00"
    page = html.render(found)
    assert '<a href="samples/arm/0/grid%201.jsonl">' in page and '<a href="inspect/arm/0/grid-0.eval">' in page


def test_a_reply_that_was_not_parsed_is_shown_as_such():
    given = {**results(arm={}), "samples": {"arm": {"grid": [{"prompt": "p", "reply": "r", "parsed": None}]}}}
    ((_, (entry,)),) = evidence.transcripts(findings.analyse(given))["arms"]
    assert entry["shown"][0]["outcome"] == "not parsed"
