"""The reasons that arms give, as files beside the report and as a table of `evaluate`."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from msm_jax.analysis import heat_map, reasons
from msm_jax.analysis.findings import Findings
from msm_jax.analysis.reasons import Rates
from msm_jax.analysis.sentences import points
from msm_jax.foundation import storage

COLUMNS = ("arm", "reason", "rate", "low", "high", "seeds", "transcripts", "without_verdict")


def write(findings: Findings, workdir: Path) -> None:
    """Writes tables/EVAL.csv and plots/EVAL.png for each eval whose transcripts give reasons.

    A row of the table is an arm and a reason; see `analysis.reasons.Rate`. What does not exist is empty.
    """
    for name, arms in findings.reasons.items():
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_rows(arms))
        storage.write_text(workdir / "tables" / f"{name}.csv", out.getvalue())
        heat_map.write(workdir / "plots" / f"{name}.png", f"{name}: share of transcripts", _grid(arms))


def _rows(arms: Mapping[str, Rates]) -> Iterator[list[Any]]:
    for arm, rates in arms.items():
        for reason, each in rates.items():
            numbers = [each.rate, each.interval.low, each.interval.high]
            shown = ["" if math.isnan(number) else number for number in numbers]
            yield [arm, reason, *shown, each.seeds, each.transcripts, each.without_verdict]


def _grid(arms: Mapping[str, Rates]) -> heat_map.Cells:
    """Returns the rates as a grid with a row for each arm and a column for each reason."""
    return {
        arm: {
            reason: (None if math.isnan(each.rate) else each.rate, each.transcripts) for reason, each in rates.items()
        }
        for arm, rates in arms.items()
    }


def of_items(items: Sequence[Mapping[str, Any]]) -> Rates:
    """Returns the rates of one run, given its items, whose "reasons" hold 1, 0 or None for each reason."""
    labels = [(f"cluster: {item['cluster']}",) for item in items]
    given = {reason: [[item["reasons"][reason] for item in items]] for reason in items[0]["reasons"]}
    return {reason: reasons.rate(np.array(row, dtype=np.float64), labels) for reason, row in given.items()}


def table(title: str, rates: Rates) -> Table:
    """Returns a table of the rates of one run in %, the reason that is given most often first."""
    shown = Table("reason", "%", "95 % interval", title=title, title_justify="left")
    known = {reason: each for reason, each in rates.items() if not math.isnan(each.rate)}
    for reason, each in sorted(known.items(), key=lambda entry: -entry[1].rate):
        shown.add_row(reason, points(each.rate), f"{points(each.interval.low)} to {points(each.interval.high)}")
    return shown
