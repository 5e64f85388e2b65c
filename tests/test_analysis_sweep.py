"""The joined results of a sweep: a row per point, the interval over points, and what was expected over worlds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from msm_jax.analysis import intervals
from msm_jax.analysis import sweep as sweep_report
from msm_jax.analysis.asked import SweepExpectation
from msm_jax.analysis.intervals import Range, Spread

CHECKS = [{"status": "met", "text": "at least 55 %"}, {"status": "failed", "text": "above 65 %"}]
LEVEL = {
    "name": "room", "eval": "prefer", "arm": "msm", "measure": "share", "value": 0.7, "ci95": [0.6, 0.8],
    "checks": CHECKS,
}  # fmt: skip


def report(gate: float | None, diff: float | None, status: str, measure: str = "share") -> dict:
    possible = [None, None] if measure == "nats" else [-1, 1]
    ci95 = [None, None] if diff is None else [diff - 0.2, diff + 0.2]
    return {
        "experiment": "x",
        "arms": {"base": {"gate": {"mean": gate}}},
        "contrasts": {"effect/all": {"diff": diff, "ci95": ci95, "measure": measure, "range": possible}},
        "gates": {"gate": {"base": gate, "other": 0.99}},
        "expectations": {"effect/all": status, "gate": "met"},
        "verdicts": [],
    }


def points(*diffs: float | None, measure: str = "share") -> list[dict]:
    """A point for each estimate, whose own interval is the estimate ± .2."""
    return [
        {"name": f"p{i}", "values": {"world.seed": str(i)}, "report": report(0.96, diff, "met", measure)}
        for i, diff in enumerate(diffs)
    ]


def checks(found: sweep_report.Over) -> list[tuple[str, str]]:
    return [(verdict.status, verdict.text) for verdict in found.verdicts]


def test_table_has_a_row_per_point_and_rows_of_means_and_counts(tmp_path):
    reports = [report(0.96, 0.5, "met"), report(0.9, 0.7, "open"), report(None, None, "failed")]
    reports[0]["verdicts"] = [LEVEL]
    given = [{"name": f"p{i}", "values": {"f": str(i), "g": "a|b"}, "report": r} for i, r in enumerate(reports)]
    markdown = sweep_report.write(given, tmp_path, "abc")
    table, _, joint = markdown.partition("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["f", "g", "effect/all", "gate", "room (msm)", "all expectations hold"]
    spread = Spread(2, np.var([0.5, 0.7], ddof=1) / 2)
    low, high = intervals.bounds(0.6, spread, Range(-1, 1), 0.05)
    assert -1 < low < 0 < high < 1, "a t interval would go from −67 to 187 points"
    p_value = intervals.p_value(0.6, spread, Range(-1, 1))
    assert rows[2:] == [
        ["0", "a&#124;b", "+0.50 [+0.30, +0.70] ✓", "0.960 ✓", "0.70 [0.60, 0.80] ✗", "yes"],
        ["1", "a&#124;b", "+0.70 [+0.50, +0.90] ?", "0.900 ✓", "n/a", "no: effect/all"],
        ["2", "a&#124;b", "n/a ✗", "0.990 ✓", "n/a", "no: effect/all"],
        ["mean", "", f"+0.60 [{low:+.2f}, {high:+.2f}]", "0.950", "0.70", "1 of 3"],
        ["above 0 in", "", "2 of 2", "", "", ""],
    ]
    ends = f"{100 * low:.0f} to {100 * high:.0f}".replace("-", "−")
    assert f"| effect/all | +60 | {ends} | points | {p_value:.2f} | 2 of 2 |  |" in joint
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["commit"] == "abc"
    assert content["over_points"]["effect/all"] == {
        "mean": 0.6, "ci95": [round(low, 6), round(high, 6)], "n_points": 2, "above_zero_in": 2,
        "measure": "share", "checks": [], "p_value": round(p_value, 6), "p_holm": round(p_value, 6),
    }  # fmt: skip
    assert (tmp_path / "plots/effect_all.png").exists()


def test_points_without_expectations_hold_none(tmp_path):
    given = [{"name": "p", "values": {"f": "1"}, "report": report(0.9, 0.5, "met") | {"expectations": {}}}]
    assert "| none stated |" in sweep_report.write(given, tmp_path, "")


def test_interval_over_worlds_covers_the_mean_of_all_worlds_about_as_often_as_it_says():
    rng, trials, covered = np.random.default_rng(0), 400, 0
    for _ in range(trials):
        found = sweep_report.over_points(points(*rng.normal(0.3, 0.15, 10)), "effect/all")
        covered += found.ci95[0] <= 0.3 <= found.ci95[1]
    assert abs(covered / trials - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / trials)


def test_what_is_expected_over_worlds_is_of_the_mean_the_interval_and_the_number_of_worlds():
    eight = points(*[0.5, 0.6, 0.4, 0.45, 0.55, 0.5, 0.6, 0.4, 0.1, 0.1])
    expected = SweepExpectation(min=0.3, max=0.5, above_zero=True, above_zero_in=8)
    assert checks(sweep_report.over_points(eight, "effect/all", expected)) == [
        ("met", "at least 30 points"), ("met", "at most 50 points"), ("met", "interval above 0"),
        ("met", "above 0 in 8 of 10 worlds, expected in 8"),
    ]  # fmt: skip
    worse = sweep_report.over_points(points(*[0.5] * 7, 0.1, 0.1, -0.3), "effect/all", expected)
    assert [status for status, _ in checks(worse)] == ["met", "met", "met", "failed"]
    assert worse.above_zero == 7
    failed = sweep_report.over_points(points(-0.2, 0.9, 0.0), "effect/all", SweepExpectation(min=0.3, above_zero=True))
    assert [status for status, _ in checks(failed)] == ["failed", "failed"]


def test_what_too_few_worlds_leave_open_is_open():
    few = sweep_report.over_points(points(0.5, 0.6), "effect/all", SweepExpectation(above_zero_in=8))
    assert checks(few) == [("open", "above 0 in 2 of 2 worlds, expected in 8")]
    one = sweep_report.over_points(points(0.5), "effect/all", SweepExpectation(min=0.3, above_zero=True))
    assert checks(one) == [("met", "at least 30 points"), ("open", "one world gives no interval")]
    alone = sweep_report.over_points(points(0.05), "effect/all", SweepExpectation(inside=0.1))
    assert checks(alone) == [("open", "not resolved within ±10 points: one world does not show how many would")]
    none = sweep_report.over_points(points(None, None), "effect/all", SweepExpectation(min=0.3))
    assert checks(none) == [("open", "nothing was scored")]
    assert none.values == ()


def test_a_control_is_inside_outside_or_says_how_many_worlds_would_resolve_it():
    inside = SweepExpectation(inside=0.1)
    assert checks(sweep_report.over_points(points(0.01, -0.02, 0.03), "effect/all", inside))[0][0] == "met"
    assert checks(sweep_report.over_points(points(0.2, 0.21, 0.19), "effect/all", inside))[0][0] == "failed"
    ((status, text),) = checks(sweep_report.over_points(points(0.1, -0.12, 0.08), "effect/all", inside))
    assert status == "open"
    worlds = int(re.search(r"(\d+) worlds would", text)[1])
    deviation, wanted = np.std([0.1, -0.12, 0.08], ddof=1), 0.1 - np.mean([0.1, -0.12, 0.08])
    half = [stats.t.ppf(0.975, n - 1) * deviation / np.sqrt(n) for n in (worlds, worlds - 1)]
    assert half[0] <= wanted < half[1]


@pytest.mark.parametrize("measure", ["share", "nats"])
def test_page_shows_every_point_and_each_verdict_in_the_unit_of_its_contrast(tmp_path, measure):
    expected = {"effect/all": SweepExpectation(min=0.3, above_zero_in=9)}
    markdown = sweep_report.write(points(0.5, 0.6, 0.9, measure=measure), tmp_path, "", expected)
    page = Path(tmp_path / "sweep.html").read_text()
    unit = {"share": "30 points", "nats": "0.30 nats"}[measure]
    assert f'<span class="met">✓ at least {unit}</span>' in page
    assert '<span class="open">? above 0 in 3 of 3 worlds, expected in 9</span>' in page
    assert f"✓ at least {unit}; ? above 0 in 3 of 3 worlds, expected in 9 |" in markdown
    assert all(f"<td>{i}</td>" in page for i in range(3))
    assert json.loads((tmp_path / "sweep.json").read_text())["expectations"] == {"effect/all": "open"}
