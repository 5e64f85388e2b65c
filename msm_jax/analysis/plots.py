"""The figures as PNG files: arms with intervals, contrasts, learning curves; and the colours that all figures share."""

import io
import math
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from msm_jax.analysis.findings import Findings
from msm_jax.analysis.results import Results, short_labels
from msm_jax.analysis.sentences import points

# Okabe and Ito's palette without its black and yellow, then two colours of Tol's: people with any kind of colour vision
# can tell them apart, on a white and on a dark page.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933")
GREY = "#868e96"
INK = "#22262b"


def arm_colors(findings: Findings) -> dict[str, tuple[str, bool]]:
    """Returns {arm: (colour, solid)}. Arms with the same midtraining, in whatever dose, share a colour.

    Colours go to the arms of the contrasts in their order; arms that no contrast names are grey. The arms of a colour
    that have the longest chain are solid. Where chains are equally long, only those are solid whose last phase is also
    the last one of an arm with the largest coefficient of a contrast, if there are any.
    """
    chains = findings.results.chains
    family = {arm: _family(findings.results, arm) for arm in findings.arms}
    colors: dict[str | tuple[str, ...], str] = {}
    for contrast in findings.contrasts.values():
        for arm in sorted(contrast.arms, key=lambda arm: -contrast.terms.get(arm, 0.0)):
            if family[arm] not in colors and len(colors) < len(PALETTE):
                colors[family[arm]] = PALETTE[len(colors)]
    combinations = [c for c in findings.contrasts.values() if c.terms]
    leading = {chains.get(max(c.terms, key=c.terms.__getitem__), ())[-1:] for c in combinations}
    rank = {
        arm: (len(chain), chain[-1:] in leading) for arm in findings.arms for chain in [chains.get(arm, ())]
    }
    highest = {family[arm]: rank[arm] for arm in sorted(findings.arms, key=rank.__getitem__)}
    return {arm: (colors.get(family[arm], GREY), rank[arm] == highest[family[arm]]) for arm in findings.arms}


def render(findings: Findings) -> dict[str, bytes]:
    """Returns {file name: PNG bytes} of the figures that have something to show."""
    figures = {
        "arms.png": _arms(findings, "share"),
        "arms_probability.png": _arms(findings, "probability"),
        "arms_nats.png": _arms(findings, "nats"),
        "contrasts.png": _contrasts(findings, ("share", "probability")),
        "contrasts_nats.png": _contrasts(findings, ("nats",)),
        "curves.png": _curves(findings),
    }
    return {name: png(figure) for name, figure in figures.items() if figure is not None}


def _family(results: Results, arm: str) -> str | tuple[str, ...]:
    """Returns the midtraining phases of an arm, or of the arm whose dose it is; the arm itself where there are none."""
    of = {low: arm for dose in results.doses.values() for low, arm in dose.items()}
    chain = results.chains.get(of.get(arm, arm), ())
    return tuple(phase for phase in chain if phase in results.midtraining) or of.get(arm, arm)


def _arms(findings: Findings, measure: str) -> Figure | None:
    levels = {
        arm: {name: by[measure] for name, found in evals.items() if measure in (by := found.by_measure)}
        for arm, evals in findings.arms.items()
    }
    evals = [name for name in findings.results.evals() if any(name in arm for arm in levels.values())]
    if not evals:
        return None
    colors, nats = arm_colors(findings), measure == "nats"
    columns = min(3, len(evals))
    rows = math.ceil(len(evals) / columns)
    figure = Figure(figsize=(4.6 * columns, rows * (0.9 + 0.3 * len(levels))), layout="constrained")
    for i in range(rows * columns):
        axes = figure.add_subplot(rows, columns, i + 1)
        if i >= len(evals):
            axes.set_axis_off()
            continue
        scored = [arm for arm in levels if evals[i] in levels[arm]]
        for y, arm in enumerate(reversed(scored)):
            summary, interval = levels[arm][evals[i]]
            color, solid = colors[arm]
            if math.isfinite(summary.mean):
                ends = (interval.low, interval.high) if nats else (max(0.0, interval.low), min(1.0, interval.high))
                axes.barh(y, summary.mean, height=0.62, color=color, alpha=0.9 if solid else 0.45)
                axes.plot(ends, [y, y], color=INK, linewidth=1.3)
                axes.plot(summary.per_seed, [y] * len(summary.per_seed), "o", color="white",
                          markeredgecolor=INK, markeredgewidth=0.7, markersize=3.6)  # fmt: skip
        axes.set_yticks(range(len(scored)), list(reversed(scored)), fontsize=8)
        # Bars are as thick in a panel of few arms as in the others.
        axes.set_ylim(len(scored) - len(levels) - 0.6, len(scored) - 0.4)
        if nats:
            axes.axvline(0, color=INK, linewidth=0.8)
        else:
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
        axes.set_title(evals[i], fontsize=10, loc="left", fontweight="bold")
        _clean(axes)
    what = {"share": "mean", "probability": "mean probability of the favoured option", "nats": "mean margin in nats"}
    figure.supxlabel(f"{what[measure]} over seeds, 95 % interval; dots are single seeds", fontsize=8, color=GREY)
    return figure


def _contrasts(findings: Findings, measures: Collection[str]) -> Figure | None:
    shown = {
        name if c.planned else f"{name} (added)": c.estimate
        for name, c in findings.contrasts.items()
        if c.measure in measures and math.isfinite(c.estimate.diff)
    }
    rows = {name: (estimate.diff, estimate.ci95, estimate.per_seed) for name, estimate in shown.items()}
    nats = "nats" in measures
    caption = f"difference in {'nats' if nats else 'points'}, 95 % interval; strokes are single seeds"
    return intervals(rows, caption, nats=nats) if rows else None


def intervals(
    rows: Mapping[str, tuple[float, Sequence[float], Sequence[float]]],
    caption: str,
    title: str = "",
    nats: bool = False,
) -> Figure:
    """Returns a figure with a row for each label: an estimate of a difference, its interval, and single values.

    The differences are shares, shown in points, or with `nats` what the axis shows.
    """
    figure = Figure(figsize=(8, 1 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, (diff, (low, high), values) in enumerate(list(rows.values())[::-1]):
        color = PALETTE[0] if low > 0 else PALETTE[1] if high < 0 else GREY
        axes.plot([low, high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot(values, [y] * len(values), "|", color=color, markersize=9)
        axes.plot(diff, y, "o", color=color, markersize=7)
    axes.set_yticks(range(len(rows)), list(rows)[::-1], fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    if not nats:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: points(x, signed=True)))
    axes.set_xlabel(caption, fontsize=8, color=GREY)
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    _clean(axes)
    return figure


def _curves(findings: Findings) -> Figure | None:
    curves = {label: runs for label, every in findings.results.curves.items() if (runs := [r for r in every if r])}
    if not curves:
        return None
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    short = short_labels(curves)
    for i, (label, runs) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for j, run in enumerate(runs):
            steps, losses = ([point[field] for point in run] for field in ("step", "loss"))
            axes.plot(steps, losses, color=PALETTE[j % len(PALETTE)], linewidth=1.2)
        axes.set_title(short[label], fontsize=10, loc="left", fontweight="bold")
        axes.set_ylabel("loss", fontsize=8)
        _clean(axes)
    figure.supxlabel("optimizer step; a line per run", fontsize=8, color=GREY)
    return figure


def _clean(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the version stamp, equal figures are equal files. The layout leaves no room for a title that is wider than
    # its axes; "tight" includes it.
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()
