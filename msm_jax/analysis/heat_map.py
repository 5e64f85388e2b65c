"""Tables and heat maps of evals whose items lie in a grid of cells "ROW/COLUMN"."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

Cells = dict[str, dict[str, tuple[float | None, int]]]


def cells(items: Sequence[Mapping[str, Any]], field: str = "score") -> Cells:
    """Returns {row: {column: (mean of a field, number of items that have it)}} in the order of the items.

    Items without a cell are left out; the mean is None where no item of a cell has a value.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for item in items:
        if "cell" in item:
            row, _, column = item["cell"].partition("/")
            values = found.setdefault(row, {}).setdefault(column, [])
            if item.get(field) is not None:
                values.append(item[field])
    return {
        row: {column: (statistics.fmean(values) if values else None, len(values)) for column, values in columns.items()}
        for row, columns in found.items()
    }


def table(title: str, grid: Cells) -> Table:
    """Returns a table with a column for each row of the grid and a line for each column, since there are more of
    these."""
    shown = Table("", *grid, title=title, title_justify="left")
    columns = dict.fromkeys(column for row in grid.values() for column in row)
    for column in columns:
        values = (row.get(column, (None, 0)) for row in grid.values())
        shown.add_row(column, *("" if mean is None else f"{mean:.2f} ({count})" for mean, count in values))
    return shown


def write(path: Path, title: str, grid: Cells) -> None:
    """Writes a heat map of means from 0 to 1 as PNG; cells without a value stay white."""
    columns = list(dict.fromkeys(column for row in grid.values() for column in row))
    means = np.full((len(grid), len(columns)), np.nan)
    for line, row in enumerate(grid.values()):
        for column, (mean, _) in row.items():
            means[line, columns.index(column)] = np.nan if mean is None else mean
    figure = Figure(figsize=(1.5 + 0.8 * len(columns), 1.5 + 0.6 * len(grid)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(means, vmin=0, vmax=1, cmap="OrRd", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(grid)), list(grid))
    for (line, place), value in np.ndenumerate(means):
        if np.isfinite(value):
            axes.text(place, line, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    axes.set_title(title)
    figure.colorbar(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
