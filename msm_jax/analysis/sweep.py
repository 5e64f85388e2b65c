"""The joined results of a sweep: sweep.json, sweep.md, sweep.html, and a plot of each contrast over the points."""

import base64
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from msm_jax.analysis import plots
from msm_jax.foundation import storage


def write(points: Sequence[Mapping[str, Any]], out_dir: Path, commit: str) -> str:
    """Writes sweep.json, sweep.md, sweep.html and plots/CONTRAST.png into `out_dir`.

    Args:
        points: {"name", "values": {field: value}, "report": content of report.json} of each point.
        out_dir: the directory of the sweep.
        commit: the commit of the code, or "".

    Returns:
        The table as Markdown, the content of sweep.md.

    Raises:
        WorkError: a file cannot be written.
    """
    rows = _table(points)
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    markdown = "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |\n" for row in ruled)
    figures = {name: plots.png(_figure(points, name)) for name in _names(points, "contrasts")}
    for name, figure in figures.items():
        storage.write_bytes(out_dir / "plots" / (re.sub(r"[^\w.+@-]", "_", name) + ".png"), figure)
    source = resources.files("msm_jax.analysis").joinpath("sweep.html.jinja").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source).render(
        experiment=points[0]["report"]["experiment"],
        commit=commit,
        rows=rows,
        figures={name: base64.b64encode(figure).decode() for name, figure in figures.items()},
    )
    storage.write_text(out_dir / "sweep.html", page)
    storage.write_text(out_dir / "sweep.md", markdown)
    joined = [
        {
            "name": point["name"],
            "values": point["values"],
            "means": {arm: {name: e["mean"] for name, e in evals.items()} for arm, evals in report["arms"].items()},
            **{field: report[field] for field in ("contrasts", "gates", "expectations")},
        }
        for point in points
        for report in [point["report"]]
    ]
    storage.write_json(out_dir / "sweep.json", {"format": 1, "commit": commit, "points": joined})
    return markdown


def _table(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the rows of the table: a heading, one row per point, and means and counts.

    The columns are the fields, the contrasts with their intervals, the gates, and whether all expectations hold. The
    value of a gate is its mean in the arm in which that is lowest.
    """
    reports, form = [point["report"] for point in points], "{:+.2f} [{:+.2f}, {:+.2f}]"
    fields = list(points[0]["values"])
    columns = [[f, *(point["values"][f] for point in points), "" if f != fields[0] else "mean"] for f in fields]
    for name in _names(points, "contrasts"):
        found = [report["contrasts"].get(name, {}) for report in reports]
        cells = ["n/a" if c.get("diff") is None else form.format(c["diff"], *c["ci95"]) for c in found]
        columns.append([name, *cells, _mean([entry.get("diff") for entry in found], "+.2f")])
    for name in _names(points, "gates"):
        means = [[mean for mean in report["gates"].get(name, {}).values() if mean is not None] for report in reports]
        lowest = [min(arms, default=None) for arms in means]
        columns.append([name, *(_mean([mean], ".3f") for mean in lowest), _mean(lowest, ".3f")])
    unmet = [[name for name, found in report["expectations"].items() if found != "met"] for report in reports]
    stated = ["yes" if report["expectations"] else "none stated" for report in reports]
    holding = [f"no: {', '.join(names)}" if names else yes for names, yes in zip(unmet, stated, strict=True)]
    columns.append(["all expectations hold", *holding, f"{holding.count('yes')} of {len(holding)}"])
    return list(zip(*columns, strict=True))


def _names(points: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point["report"][field]))


def _mean(values: Sequence[float | None], form: str) -> str:
    found = [value for value in values if value is not None]
    return format(statistics.fmean(found), form) if found else "n/a"


def _figure(points: Sequence[Mapping[str, Any]], name: str) -> Figure:
    """Returns a figure of one contrast with a row per point."""
    found = {point["name"]: point["report"]["contrasts"].get(name, {}) for point in points}
    rows = {label: (c["diff"], c["ci95"], ()) for label, c in found.items() if c.get("diff") is not None}
    return plots.intervals(rows, "difference in points, 95 % interval", name)
