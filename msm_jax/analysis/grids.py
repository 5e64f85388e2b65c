"""Evals whose items lie in a grid of cells "ROW/COLUMN": each arm in each cell, and the differences between arms.

Each cell is estimated as the whole eval is, from its own items alone. Where many cells are looked at, some differ by
chance; so the p-values of a contrast's cells are corrected, by Holm's method, for the number of cells.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np

from msm_jax.analysis import statistics
from msm_jax.analysis.intervals import Interval
from msm_jax.analysis.results import Results, Scores


@dataclasses.dataclass(frozen=True)
class Level:
    """One cell of one arm: the mean, its 95 % interval, and the number of items."""

    mean: float
    interval: Interval
    n_items: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """One cell of a contrast; `p_holm` is corrected for the number of cells."""

    estimate: statistics.Contrast
    p_holm: float


@dataclasses.dataclass(frozen=True)
class Grid:
    """An eval that is a grid.

    Attributes:
      rows, columns: the names of the cells' parts, in the order of the items.
      arms: {arm: {cell: its level}}.
      acts: the same of the concrete act, for evals whose score is a verdict.
      contrasts: {contrast on this eval: {cell: the difference}}.
      measures: {contrast: its measure}.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    arms: Mapping[str, Mapping[str, Level]]
    acts: Mapping[str, Mapping[str, Level]]
    contrasts: Mapping[str, Mapping[str, Difference]]
    measures: Mapping[str, str]


def of(results: Results) -> dict[str, Grid]:
    """Returns {eval: its grid} for the evals whose items have cells."""
    return {name: grid for name in results.evals() if (grid := _grid(results, name))}


def _grid(results: Results, name: str) -> Grid | None:
    scored = {arm: evals[name] for arm, evals in results.arms.items() if name in evals and evals[name].cells}
    if not scored:
        return None
    named = dict.fromkeys(cell for scores in scored.values() for cell in scores.cells)
    parts = [cell.partition("/") for cell in named]
    specs = {
        contrast: spec
        for contrast, spec in results.contrasts.items()
        if spec.eval == name and spec.terms and scored.keys() >= set(spec.terms)
    }
    return Grid(
        tuple(dict.fromkeys(row for row, _, _ in parts)),
        tuple(dict.fromkeys(column for _, _, column in parts)),
        {arm: _levels(scores, "share") for arm, scores in scored.items()},
        {arm: _levels(scores, "act") for arm, scores in scored.items() if scores.acts},
        {
            contrast: _differences({arm: scored[arm] for arm in spec.terms}, spec.terms, spec.measure)
            for contrast, spec in specs.items()
        },
        {contrast: spec.measure for contrast, spec in specs.items()},
    )


def flat(results: Results) -> Iterator[str]:
    """Yields a sentence on each grid in which the columns change nothing for some arms, although the rows differ."""
    for name in results.evals():
        found = [arm for arm, evals in results.arms.items() if name in evals and _is_flat(evals[name])]
        if found:
            arms = f" in {', '.join(found)}" if len(results.arms) > 1 else ""
            yield f"{name}: every row has the same score in all columns{arms}, so the columns change nothing there."


def _is_flat(scores: Scores) -> bool:
    means: dict[str, list[float]] = {}
    for cell in dict.fromkeys(scores.cells):
        values = scores.values_SN[:, _places(scores, cell)]
        means.setdefault(cell.partition("/")[0], []).append(statistics.summarise(values).mean)
    same = all(len(row) > 1 and max(row) == min(row) for row in means.values())
    return same and len({row[0] for row in means.values()}) > 1


def _places(scores: Scores, cell: str) -> list[int]:
    return [place for place, own in enumerate(scores.cells) if own == cell]


def _labels(scores: Scores, places: list[int]) -> tuple[tuple[str, ...], ...]:
    return tuple(scores.labels[place] for place in places) if scores.labels else ()


def _levels(scores: Scores, measure: str) -> dict[str, Level]:
    levels = {}
    for cell in dict.fromkeys(scores.cells):
        places = _places(scores, cell)
        values_SN = scores.measured(measure)[:, places]
        found = statistics.interval95(values_SN, _labels(scores, places))
        number = int(np.isfinite(values_SN).any(axis=0).sum())
        levels[cell] = Level(statistics.summarise(values_SN).mean, found, number)
    return levels


def _differences(scored: Mapping[str, Scores], terms: Mapping[str, float], measure: str) -> dict[str, Difference]:
    first = next(iter(scored.values()))
    estimates = {}
    for cell in dict.fromkeys(first.cells):
        places = _places(first, cell)
        values = {arm: scores.measured(measure)[:, places] for arm, scores in scored.items()}
        estimates[cell] = statistics.contrast(values, terms, _labels(first, places), measure)
    corrected = statistics.holm([each.p_value for each in estimates.values()])
    return {
        cell: Difference(estimate, p_holm)
        for (cell, estimate), p_holm in zip(estimates.items(), corrected, strict=True)
    }


def strength(difference: float, cells: Mapping[str, Difference]) -> float:
    """Returns a difference as a share of the largest one of the cells, from −1 to 1."""
    sizes = [abs(each.estimate.diff) for each in cells.values()]
    largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
    return difference / largest if largest else 0.0
