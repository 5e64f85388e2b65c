"""The joined results of a sweep: sweep.json, sweep.md, sweep.html, and a plot of each contrast over the points.

Each contrast has a mean over the points with its 95 % t interval over the points' estimates, in the form that
`intervals` gives it, so that it stays within what is possible. Points are often worlds, and then this interval says
how the contrast varies from world to world, which that of one experiment cannot say. Its p-value is corrected for the
number of contrasts by Holm's method.
"""

import base64
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from msm_jax.analysis import intervals, plots, statistics, verdicts
from msm_jax.analysis.asked import SweepExpectation
from msm_jax.analysis.intervals import Range, Spread
from msm_jax.analysis.sentences import amount, p_text, unit
from msm_jax.analysis.verdicts import Verdict
from msm_jax.foundation import storage

_MARKS = {"met": "✓", "failed": "✗", "open": "?"}
_FORM = "{:+.2f} [{:+.2f}, {:+.2f}]"


@dataclasses.dataclass(frozen=True)
class Over:
    """A contrast over the points of a sweep that have it.

    Attributes:
      mean: of the points' estimates; NaN if no point has one.
      ci95: the t interval over them; NaN for fewer than two points.
      p_value: at the level of this interval; NaN where there is none.
      values: the estimates.
      above_zero: the number of points whose own interval lies above 0.
      measure: of the contrast.
      verdicts: on what was expected over the points.
      p_holm: the p-value corrected for the number of contrasts.
    """

    mean: float
    ci95: tuple[float, float]
    values: tuple[float, ...]
    above_zero: int
    measure: str
    p_value: float = math.nan
    verdicts: tuple[Verdict, ...] = ()
    p_holm: float = math.nan


def write(
    points: Sequence[Mapping[str, Any]],
    out_dir: Path,
    commit: str,
    expectations: Mapping[str, SweepExpectation] | None = None,
) -> str:
    """Writes sweep.json, sweep.md, sweep.html and plots/CONTRAST.png into `out_dir`.

    Args:
        points: {"name", "values": {field: value}, "report": content of report.json} of each point.
        out_dir: the directory of the sweep.
        commit: the commit of the code, or "".
        expectations: {contrast: what it should be over the points}.

    Returns:
        The tables as Markdown, the content of sweep.md.

    Raises:
        WorkError: a file cannot be written.
    """
    over = {name: over_points(points, name, (expectations or {}).get(name)) for name in _names(points, "contrasts")}
    corrected = statistics.holm([found.p_value for found in over.values()])
    over = {
        name: dataclasses.replace(found, p_holm=p_holm)
        for (name, found), p_holm in zip(over.items(), corrected, strict=True)
    }
    rows, joint = _table(points, over), _joint_table(over)
    markdown = _markdown(rows) + ("\n" + _markdown(joint) if over else "")
    figures = {name: plots.png(_figure(points, name, found)) for name, found in over.items()}
    for name, figure in figures.items():
        storage.write_bytes(out_dir / "plots" / (re.sub(r"[^\w.+@-]", "_", name) + ".png"), figure)
    source = resources.files("msm_jax.analysis").joinpath("sweep.html.jinja").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source).render(
        experiment=points[0]["report"]["experiment"],
        commit=commit,
        count=len(points),
        rows=rows,
        joint=joint,
        verdicts=[found.verdicts for found in over.values()],
        figures={name: base64.b64encode(figure).decode() for name, figure in figures.items()},
    )
    storage.write_text(out_dir / "sweep.html", page)
    storage.write_text(out_dir / "sweep.md", markdown)
    joined = [
        {
            "name": point["name"],
            "values": point["values"],
            "means": {arm: {name: e["mean"] for name, e in evals.items()} for arm, evals in report["arms"].items()},
            **{field: report[field] for field in ("contrasts", "gates", "expectations", "verdicts")},
        }
        for point in points
        for report in [point["report"]]
    ]
    content = {
        "format": 1,
        "commit": commit,
        "points": joined,
        "over_points": {name: _json(found) for name, found in over.items()},
        "expectations": {name: verdicts.worst(found.verdicts) for name, found in over.items() if found.verdicts},
    }
    storage.write_json(out_dir / "sweep.json", content)
    return markdown


def over_points(points: Sequence[Mapping[str, Any]], name: str, expected: SweepExpectation | None = None) -> Over:
    """Returns a contrast's mean over the points, its interval, and the verdicts on what was expected; see `write`.

    `min` and `max` are of the mean, `above_zero` and `inside` of the t interval over the points. `above_zero_in` counts
    the points whose own interval lies above 0; it stays open while fewer points are done than it asks for.
    """
    entries = [point["report"]["contrasts"].get(name, {}) for point in points]
    found = [entry for entry in entries if entry.get("diff") is not None]
    values = np.array([entry["diff"] for entry in found])
    measure = next((entry["measure"] for entry in entries if entry), "share")
    above = sum(entry["ci95"][0] > 0 for entry in found)
    mean, ci95, p_value = (float(values.mean()) if found else math.nan), (math.nan, math.nan), math.nan
    spread = Spread(len(found), float(values.var(ddof=1)) / len(found) if len(found) > 1 else math.nan)
    if len(found) > 1:
        low, high = found[0]["range"]
        within = Range() if low is None else Range(low, high)
        ci95 = intervals.bounds(mean, spread, within, 1 - intervals.CONFIDENCE)
        p_value = intervals.p_value(mean, spread, within)
    held: list[Verdict] = []
    if expected is not None and not found:
        held.append(Verdict("open", "nothing was scored"))
    elif expected is not None:
        held += verdicts.of_estimate(mean, ci95, expected, measure, spread, "world")
        if expected.above_zero_in:
            text = f"above 0 in {above} of {len(found)} worlds, expected in {expected.above_zero_in}"
            enough = above >= expected.above_zero_in
            status = "met" if enough else "failed" if len(found) >= expected.above_zero_in else "open"
            held.append(Verdict(status, text))
    return Over(mean, ci95, tuple(values.tolist()), above, measure, p_value, tuple(held))


def _table(points: Sequence[Mapping[str, Any]], over: Mapping[str, Over]) -> list[tuple[str, ...]]:
    """Returns the rows of the table: a heading, one row per point, one of means, and one of counts.

    The columns are the fields, the contrasts with their intervals, the gates, the other levels of which something was
    expected, and whether all expectations hold. The value of a gate is its mean in the arm in which that is lowest.
    What was expected of a point has a mark: ✓, ✗, or ? where it is not resolved.
    """
    reports = [point["report"] for point in points]
    fields = list(points[0]["values"])
    columns = [
        [f, *(point["values"][f] for point in points), *(("mean", "above 0 in") if f == fields[0] else ("", ""))]
        for f in fields
    ]
    for name, found in over.items():
        cells = [_contrast(report, name) for report in reports]
        columns.append([name, *cells, _interval(found), f"{found.above_zero} of {len(found.values)}"])
    for name in _names(points, "gates"):
        means = [[mean for mean in report["gates"].get(name, {}).values() if mean is not None] for report in reports]
        lowest = [min(arms, default=None) for arms in means]
        cells = [_mean([mean], ".3f") + _mark(report, name) for mean, report in zip(lowest, reports, strict=True)]
        columns.append([name, *cells, _mean(lowest, ".3f"), ""])
    for name, arm in _levels(points):
        rows = [_row(report, name, arm) for report in reports]
        cells = ["n/a" if row is None else _level(row) for row in rows]
        columns.append([f"{name} ({arm})", *cells, _mean([row["value"] if row else None for row in rows], ".2f"), ""])
    unmet = [[name for name, found in report["expectations"].items() if found != "met"] for report in reports]
    stated = ["yes" if report["expectations"] else "none stated" for report in reports]
    holding = [f"no: {', '.join(names)}" if names else yes for names, yes in zip(unmet, stated, strict=True)]
    columns.append(["all expectations hold", *holding, f"{holding.count('yes')} of {len(holding)}", ""])
    return list(zip(*columns, strict=True))


def _joint_table(over: Mapping[str, Over]) -> list[tuple[str, ...]]:
    """Returns a heading and a row for each contrast: its mean, its interval, and what was expected of them."""
    over_points, over_worlds = "95 % interval over points", "expected over worlds"
    rows: list[tuple[str, ...]] = [("contrast", "mean", over_points, "unit", "p (Holm)", "above 0 in", over_worlds)]
    for name, found in over.items():
        low, high = (amount(bound, found.measure) for bound in found.ci95)
        interval = f"{low} to {high}" if math.isfinite(found.ci95[0]) else "n/a"
        held = "; ".join(f"{_MARKS[verdict.status]} {verdict.text}" for verdict in found.verdicts)
        mean = amount(found.mean, found.measure, signed=True)
        count = f"{found.above_zero} of {len(found.values)}"
        rows.append((name, mean, interval, unit(found.measure), p_text(found.p_holm), count, held))
    return rows


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |\n" for row in ruled)


def _names(points: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point["report"][field]))


def _levels(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns (name, arm) of the levels of which something was expected; gates have columns of their own."""
    rows = [(row, point["report"]["gates"]) for point in points for row in point["report"]["verdicts"]]
    levels = ((row["name"], row["arm"]) for row, gates in rows if row["arm"] and row["name"] not in gates)
    return list(dict.fromkeys(levels))


def _row(report: Mapping[str, Any], name: str, arm: str) -> Mapping[str, Any] | None:
    found = (row for row in report["verdicts"] if (row["name"], row["arm"]) == (name, arm))
    return next((row for row in found if row["value"] is not None), None)


def _level(row: Mapping[str, Any]) -> str:
    status = verdicts.worst(tuple(Verdict(check["status"], "") for check in row["checks"]))
    low, high = row["ci95"]
    return f"{row['value']:.2f} [{low:.2f}, {high:.2f}] {_MARKS[status]}"


def _contrast(report: Mapping[str, Any], name: str) -> str:
    entry = report["contrasts"].get(name, {})
    cell = "n/a" if entry.get("diff") is None else _FORM.format(entry["diff"], *entry["ci95"])
    return cell + _mark(report, name)


def _mark(report: Mapping[str, Any], name: str) -> str:
    status = report["expectations"].get(name)
    return f" {_MARKS[status]}" if status else ""


def _interval(found: Over) -> str:
    if not math.isfinite(found.mean):
        return "n/a"
    return _FORM.format(found.mean, *found.ci95) if math.isfinite(found.ci95[0]) else f"{found.mean:+.2f}"


def _mean(values: Sequence[float | None], form: str) -> str:
    found = [value for value in values if value is not None]
    return format(sum(found) / len(found), form) if found else "n/a"


def _json(found: Over) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return round(value, 6) if math.isfinite(value) else None

    return {
        "mean": number(found.mean),
        "ci95": [number(bound) for bound in found.ci95],
        "p_value": number(found.p_value),
        "p_holm": number(found.p_holm),
        "n_points": len(found.values),
        "above_zero_in": found.above_zero,
        "measure": found.measure,
        "checks": [{"status": verdict.status, "text": verdict.text} for verdict in found.verdicts],
    }


def _figure(points: Sequence[Mapping[str, Any]], name: str, over: Over) -> Figure:
    """Returns a figure of one contrast with a row per point, and one of their mean where there are several."""
    found = {point["name"]: point["report"]["contrasts"].get(name, {}) for point in points}
    rows: dict[str, tuple[float, Sequence[float], Sequence[float]]] = {
        label: (c["diff"], c["ci95"], ()) for label, c in found.items() if c.get("diff") is not None
    }
    if math.isfinite(over.ci95[0]):
        rows[f"mean of {len(over.values)}"] = (over.mean, over.ci95, over.values)
    nats = over.measure == "nats"
    return plots.intervals(rows, f"difference in {unit(over.measure)}, 95 % interval", name, nats=nats)
