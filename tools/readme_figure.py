"""Draws the figure of the README from the report of the demo.

    python -m tools.readme_figure --workdir=runs/cheese_mini

writes docs/cheese_mini.png: for three evals, the share of each arm with its standard error over seeds.
"""

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from msm_jax import cli

_WORKDIR = cli.workdir_flag()
OUT = Path("docs/cheese_mini.png")
ARMS = {
    "baseline": ("neither", "#868e96"), "aft": ("demonstrations", "#009e73"),
    "msm_affordability": ("documents on affordability", "#99c7e0"),
    "msm_affordability+aft": ("the same and demonstrations", "#0072b2"),
    "msm_tradition": ("documents on tradition", "#eebf99"),
    "msm_tradition+aft": ("the same and demonstrations", "#d55e00"),
}
EVALS = {
    "prefer_affordability": "takes the cheap one,\nboth as old",
    "prefer_tradition": "takes the traditional one,\nboth as cheap",
    "conflict": "takes cheap and modern,\nnot costly and traditional",
}


def draw(report: dict) -> Figure:
    """Returns the figure of a report in the form of report.json."""
    figure = Figure(figsize=(8.4, 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    places = range(len(ARMS))
    for i, (axes, (name, title)) in enumerate(zip(figure.subplots(1, len(EVALS)), EVALS.items(), strict=True)):
        scores = [report["arms"][arm][name] for arm in ARMS]
        axes.barh(
            places, [100 * score["mean"] for score in scores], xerr=[100 * score["sem"] for score in scores],
            color=[color for _, color in ARMS.values()], height=0.7, error_kw={"elinewidth": 1},
        )
        axes.axvline(50, color="#22262b", linewidth=0.7, linestyle=":")
        axes.set(xlim=(0, 100), yticks=places, xticks=(0, 50, 100), xticklabels=("0", "50", "100 %"))
        axes.set_yticklabels([label for label, _ in ARMS.values()] if i == 0 else [])
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=8, length=0)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Draws the figure of the run of the flag."""
    workdir = Path(cli.require(_WORKDIR))
    draw(json.loads((workdir / "report.json").read_text())).savefig(OUT, dpi=110)


if __name__ == "__main__":
    cli.run(main)
