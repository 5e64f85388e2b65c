"""Grids of cells as tables of the page and as entries of report.json."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from msm_jax.analysis.findings import Findings
from msm_jax.analysis.grids import Difference, Grid, Level, strength
from msm_jax.analysis.sentences import amount, effect_text, p_text, points, seeds_text, unit

# The share of full colour of the strongest cell, so that its text stays readable.
_COLOR = 55


def sections(findings: Findings) -> list[dict[str, Any]]:
    """Returns for each grid its heat maps, one for each arm and each contrast, and the rows of its numbers."""
    return [_section(name, grid) for name, grid in findings.grids.items()]


def _section(name: str, grid: Grid) -> dict[str, Any]:
    def levels(arms: Mapping[str, Mapping[str, Level]]) -> list[dict[str, Any]]:
        return [_map(grid, arm, {cell: _level(found) for cell, found in cells.items()}) for arm, cells in arms.items()]

    differences = [
        _map(grid, contrast, {cell: _difference(found, grid, contrast) for cell, found in cells.items()})
        | _numbers(grid, contrast)
        for contrast, cells in grid.contrasts.items()
    ]
    return {
        "eval": name,
        "columns": grid.columns,
        "arms": levels(grid.arms),
        "acts": levels(grid.acts),
        "contrasts": differences,
        "cells": len(list(_cells(grid))),
    }


def _cells(grid: Grid) -> Iterable[str]:
    """Yields the names of the cells, row by row."""
    known = {cell for cells in grid.arms.values() for cell in cells}
    for row in grid.rows:
        for column in grid.columns:
            cell = f"{row}/{column}" if column else row
            if cell in known:
                yield cell


def _map(grid: Grid, name: str, shown: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    blank = {"text": "", "style": "", "title": "", "mark": ""}
    rows = [
        (row, [shown.get(f"{row}/{column}" if column else row, blank) for column in grid.columns]) for row in grid.rows
    ]
    return {"name": name, "rows": rows}


def _level(found: Level) -> dict[str, str]:
    low, high = points(found.interval.low), points(found.interval.high)
    title = f"{points(found.mean)} %, 95 % interval {low} to {high}, {found.n_items} items"
    return {"text": points(found.mean), "style": _style(found.mean), "title": title, "mark": ""}


def _difference(found: Difference, grid: Grid, contrast: str) -> dict[str, str]:
    measure, estimate = grid.measures[contrast], found.estimate
    value = amount(estimate.diff, measure, signed=True)
    low, high = (amount(bound, measure) for bound in estimate.ci95)
    title = f"{value} {unit(measure)}, 95 % interval {low} to {high}, p (Holm) {p_text(found.p_holm)}"
    return {
        "text": value,
        "style": _style(strength(estimate.diff, grid.contrasts[contrast])),
        "title": title,
        "mark": "clear" if found.p_holm < 0.05 else "",
    }


def _style(share: float) -> str:
    """Returns the background of a cell from −1 to 1; that of NaN is blank."""
    if not math.isfinite(share):
        return ""
    color = "below" if share < 0 else "above"
    return f"background:color-mix(in srgb, var(--{color}) {round(_COLOR * abs(share))}%, var(--card))"


def _numbers(grid: Grid, contrast: str) -> dict[str, Any]:
    """Returns every number of the cells of a contrast, and their unit."""
    measure = grid.measures[contrast]
    rows = []
    for cell in _cells(grid):
        if cell not in grid.contrasts[contrast]:
            continue
        found = grid.contrasts[contrast][cell]
        estimate = found.estimate
        low, high = (amount(bound, measure) for bound in estimate.ci95)
        rows.append(
            {
                "cell": cell,
                "diff": amount(estimate.diff, measure, signed=True),
                "interval": f"{low} to {high}" if math.isfinite(estimate.diff) else "n/a",
                "p": p_text(estimate.p_value),
                "p_holm": p_text(found.p_holm),
                "effect": effect_text(estimate.effect, estimate.effect_of),
                "over": f"{seeds_text(estimate.n_seeds)} × {estimate.n_items} items",
            }
        )
    return {"unit": unit(measure), "numbers": rows}
