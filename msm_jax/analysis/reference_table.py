"""Levels that others have measured, beside ours with the deviations: their rows, and a table for page and terminal."""

import dataclasses
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.markup import escape as plain
from rich.table import Table

from msm_jax.analysis.findings import Findings
from msm_jax.analysis.sentences import points

_HEADINGS = ("eval", "arm", "source", "theirs, %", "ours, %", "95 % interval", "ours \u2212 theirs", "")


@dataclasses.dataclass(frozen=True)
class Row:
    """One level of a reference, from 0 to 1, beside ours with its 95 % interval; NaN where ours does not exist.

    `inside` says whether our interval holds their level, None where there is no interval.
    """

    eval: str
    arm: str
    source: str
    theirs: float
    ours: float
    ci95: tuple[float, float]

    @property
    def deviation(self) -> float:
        """Ours minus theirs."""
        return self.ours - self.theirs

    @property
    def inside(self) -> bool | None:
        """Whether our interval holds their level."""
        low, high = self.ci95
        return low <= self.theirs <= high if math.isfinite(low) and math.isfinite(high) else None


def rows(findings: Findings) -> list[Row]:
    """Returns a row for each level of each reference, in the order of the results."""
    found = []
    for each in findings.results.reference:
        for arm, theirs in each.levels.items():
            if each.eval in findings.arms[arm]:
                ours = findings.arms[arm][each.eval]
                ends = ours.interval.low, ours.interval.high
                found.append(Row(each.eval, arm, each.source, theirs, ours.summary.mean, ends))
    return found


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Returns a row of report.json as texts, in the order of `_HEADINGS`."""
    theirs, ours, deviation, low, high = (
        math.nan if value is None else value
        for value in (row["theirs"], row["ours"], row["deviation"], *row["ci95"])
    )
    verdict = {True: "inside our interval", False: "outside our interval", None: "no interval"}[row["inside"]]
    numbers = [points(theirs), points(ours), f"{points(low)} to {points(high)}", points(deviation, signed=True)]
    return [row["eval"], row["arm"], row["source"], *numbers, verdict]


def section(findings: Findings) -> Markup:
    """Returns the section of the page, empty without references; text from outside is escaped."""
    lines = []
    for row in rows(findings):
        shown = {**dataclasses.asdict(row), "deviation": row.deviation, "inside": row.inside}
        name, arm, source, *others = map(escape, _cells(shown))
        first = f'<td class="mono">{name}</td><td class="mono">{arm}</td><td class="prose">{source}</td>'
        lines.append(f"<tr>{first}{''.join(f'<td>{cell}</td>' for cell in others)}</tr>")
    if not lines:
        return Markup("")
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    note = (
        "Levels of the same arms that others have measured. Their models, data, judges and items differ from ours as "
        "the source says, and their own spread is not known, so a level outside our interval is no failure by itself."
    )
    label = "Beside the levels of others"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'
    box = f'<div class="table card">{box}</div>'
    return Markup(f'<section id="reference"><h2>{label}</h2><p class="note">{note}</p>{box}</section>')


def table(content: Mapping[str, Any]) -> Table:
    """Returns the table for a terminal from the content of a report.json."""
    shown = Table(title="Beside the levels of others", title_justify="left", box=SIMPLE_HEAD)
    for heading in _HEADINGS:
        text = heading in ("eval", "arm", "source", "")
        shown.add_column(heading, justify="left" if text else "right", overflow="fold")
    for row in content["reference"]:
        shown.add_row(*map(plain, _cells(row)))
    return shown
