"""The page of a corpus' quality gates: quality.json and quality.html, in the look of the experiment's report."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from msm_jax.foundation import storage


def write(report: Mapping[str, Any], out_dir: Path) -> None:
    """Writes quality.json and quality.html into `out_dir`.

    Args:
        report: what the gates say, as `synthesis.quality.report.build` describes it.
        out_dir: the directory of the corpus.

    Raises:
        WorkError: a file cannot be written.
    """
    storage.write_json(out_dir / "quality.json", report)
    storage.write_text(out_dir / "quality.html", render(report))


def render(report: Mapping[str, Any]) -> str:
    """Returns the page; all text that came from outside is escaped."""
    files = resources.files("msm_jax.analysis")
    source = files.joinpath("quality.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"share": _share, "count": _count}
    found = sorted(report["gates"], key=lambda gate: -gate["rows"])
    return environment.from_string(source).render(
        report=report,
        style=Markup(files.joinpath("page.css").read_text(encoding="utf-8")),
        found=[gate for gate in found if gate["rows"]],
        quiet=[gate for gate in found if not gate["rows"]],
        most=max((gate["share"] for gate in found), default=0.0),
        measures=[{**measure, "shown": _value(measure)} for measure in report["measures"]],
        kept=report["kept"] / report["rows"] if report["rows"] else 0.0,
    )


def _share(value: float) -> str:
    """Returns a share in percent, with a decimal where it is small."""
    return f"{100 * value:.0f}\u00a0%" if value >= 0.1 or value == 0 else f"{100 * value:.1f}\u00a0%"


def _count(value: int) -> str:
    return f"{value:,}"


def _value(measure: Mapping[str, Any]) -> str:
    value = measure["value"]
    if value is None:
        return "not measured"
    if measure["code"] in ("attributes", "mentions"):
        return _share(value)
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"
