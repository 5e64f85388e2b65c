"""The reasons that the arms of an experiment give, by arm: a table of rates with intervals, as a file and as a map.

Figure 11 of arXiv 2605.02087 shows such a table. All arms are classified by one code book, so their rates compare.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from msm_jax.analysis import heat_map
from msm_jax.analysis.statistics import interval95, summarise
from msm_jax.experiments import gather
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.finished import Finished
from msm_jax.foundation import storage

KIND = "reasoning"
COLUMNS = ("arm", "reason", "rate", "low", "high", "seeds", "transcripts", "without_verdict")


def write(config: ExperimentConfig, workdir: Path) -> None:
    """Writes tables/EVAL.csv and plots/EVAL.png for each eval of the kind `reasoning` that has a result.

    A row of the table is an arm and a reason: the share of the transcripts with a verdict that give it, its 95 %
    interval over seeds and items (`analysis.intervals`), and the share of transcripts without a verdict.
    """
    for name, fields in config.evals.items():
        if fields.get("kind") == KIND:
            found = list(rows(config, workdir, name))
            if found:
                out = io.StringIO()
                writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(found)
                storage.write_text(workdir / "tables" / f"{name}.csv", out.getvalue())
                heat_map.write(workdir / "plots" / f"{name}.png", f"{name}: share of transcripts", grid(found))


def grid(found: list[dict[str, Any]]) -> heat_map.Cells:
    """Returns the rates as a grid with a row for each arm and a column for each reason."""
    cells: heat_map.Cells = {}
    for row in found:
        cells.setdefault(row["arm"], {})[row["reason"]] = (row["rate"], row["transcripts"])
    return cells


def table(title: str, found: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a table of the rows of one arm, the reason that is given most often first."""
    shown = Table("reason", "rate", "95 % interval", title=title, title_justify="left")
    for row in sorted(found, key=lambda row: -(row["rate"] or 0)):
        if row["rate"] is not None:
            shown.add_row(row["reason"], f"{row['rate']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")
    return shown


def rows(config: ExperimentConfig, workdir: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of the table of one eval, by arm in the order of the settings, and by reason in that of the book;
    an arm without a result has none."""
    graph = graph_lib.build(config)
    finished = Finished(storage.read_json(workdir / gather.RECORD), workdir)
    for arm, chain in graph.arms.items():
        for prefix, _ in graph_lib.measured_after(chain, config.evals[name])[-1:]:
            runs = dict.fromkeys(graph_lib.seed_of(config, prefix, seed) for seed in config.seeds)
            found = [finished.evaluation(graph.measurements[prefix, own].id, name) for own in runs]
            yield from of_arm(arm, [result["items"] for result in found if result is not None])


def of_arm(arm: str, seeds: list[list[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yields the rows of one arm, given the items of each of its seeds; reasons that no verdict tells have no rate."""
    if not seeds:
        return
    labels = tuple((f"cluster: {item['cluster']}",) for item in seeds[0])
    for reason in seeds[0][0]["reasons"]:
        given = [[item["reasons"][reason] for item in items] for items in seeds]
        values = np.array([[np.nan if value is None else value for value in row] for row in given], np.float64)
        is_known = bool(np.isfinite(values).any())
        ends = interval95(values, labels) if is_known else None
        yield {
            "arm": arm,
            "reason": reason,
            "rate": summarise(values).mean if is_known else None,
            "low": ends.low if ends else None,
            "high": ends.high if ends else None,
            "seeds": len(seeds),
            "transcripts": values.size,
            "without_verdict": float(np.isnan(values).mean()),
        }
