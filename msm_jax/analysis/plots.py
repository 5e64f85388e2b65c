"""The figures as PNG: arms with intervals, contrasts, learning curves; and the colours that every figure
shares."""

import io
import math
import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from msm_jax.analysis.findings import Findings, points
from msm_jax.analysis.results import base_label, short_labels

# Okabe and Ito's palette without its black and yellow, then two of Tol's: told apart with every kind of
# colour vision, on white and on dark.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933")
GREY = "#868e96"
INK = "#22262b"


def arm_colors(findings: Findings) -> dict[str, tuple[str, bool]]:
    """Arm to (colour, solid): arms that differ only after a "+" or "@" share a colour, the longest chain is
    solid.

    Colours go to the arms of the contrasts in their order; arms that no contrast names are grey.
    """
    stems: dict[str, str] = {}
    for contrast in findings.contrasts.values():
        for arm in sorted(contrast.terms, key=lambda arm: -contrast.terms[arm]):
            if _stem(arm) not in stems and len(stems) < len(PALETTE):
                stems[_stem(arm)] = PALETTE[len(stems)]
    longest = {
        _stem(arm): max(a.count("+") for a in findings.arms if _stem(a) == _stem(arm))
        for arm in findings.arms
    }
    return {
        arm: (stems.get(_stem(arm), GREY), arm.count("+") == longest[_stem(arm)]) for arm in findings.arms
    }


def render(findings: Findings) -> dict[str, bytes]:
    """File name to PNG bytes, for the figures that have something to show."""
    figures = {
        "arms.png": _arms(findings),
        "contrasts.png": _contrasts(findings),
        "curves.png": _curves(findings),
    }
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def group_curves(labels: Sequence[str]) -> dict[str, list[str]]:
    """Phase to the labels of its runs, in the order they come."""
    groups: dict[str, list[str]] = {}
    for label, short in short_labels(labels).items():
        groups.setdefault(base_label(short), []).append(label)
    return groups


def _stem(arm: str) -> str:
    return re.split(r"[+@]", arm, maxsplit=1)[0]


def _arms(findings: Findings) -> Figure | None:
    evals = [name for name in findings.results.evals() if any(name in arm for arm in findings.arms.values())]
    if not evals:
        return None
    colors = arm_colors(findings)
    columns = min(3, len(evals))
    rows = math.ceil(len(evals) / columns)
    figure = Figure(figsize=(4.6 * columns, rows * (0.9 + 0.3 * len(findings.arms))), layout="constrained")
    for i in range(rows * columns):
        axes = figure.add_subplot(rows, columns, i + 1)
        if i >= len(evals):
            axes.set_axis_off()
            continue
        scored = [arm for arm in findings.arms if evals[i] in findings.arms[arm]]
        for y, arm in enumerate(reversed(scored)):
            finding = findings.arms[arm][evals[i]]
            color, solid = colors[arm]
            if math.isfinite(finding.summary.mean):
                low, high = max(0.0, finding.interval.low), min(1.0, finding.interval.high)
                axes.barh(y, finding.summary.mean, height=0.62, color=color, alpha=0.9 if solid else 0.45)
                axes.plot([low, high], [y, y], color=INK, linewidth=1.3)
                axes.plot(finding.summary.per_seed, [y] * len(finding.summary.per_seed), "o", color="white",
                          markeredgecolor=INK, markeredgewidth=0.7, markersize=3.6)  # fmt: skip
        axes.set_yticks(range(len(scored)), list(reversed(scored)), fontsize=8)
        axes.set_xlim(0, 1)
        # Bars are as thick in a panel of few arms as in the others.
        axes.set_ylim(len(scored) - len(findings.arms) - 0.6, len(scored) - 0.4)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
        axes.set_title(evals[i], fontsize=10, loc="left", fontweight="bold")
        _clean(axes)
    figure.supxlabel("mean over seeds, 95 % interval; dots are single seeds", fontsize=8, color=GREY)
    return figure


def _contrasts(findings: Findings) -> Figure | None:
    shown = {name: c for name, c in findings.contrasts.items() if math.isfinite(c.estimate.diff)}
    if not shown:
        return None
    figure = Figure(figsize=(8, 1 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, contrast in enumerate(reversed(list(shown.values()))):
        low, high = contrast.estimate.ci95
        color = PALETTE[0] if low > 0 else PALETTE[1] if high < 0 else GREY
        axes.plot([low, high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot(contrast.estimate.per_seed, [y] * contrast.estimate.n_seeds, "|", color=color, markersize=9)
        axes.plot(contrast.estimate.diff, y, "o", color=color, markersize=7)
    axes.set_yticks(range(len(shown)), list(reversed(shown)), fontsize=9)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: points(x, signed=True)))
    axes.set_xlabel("difference in points, 95 % interval; strokes are single seeds", fontsize=8, color=GREY)
    _clean(axes)
    return figure


def _curves(findings: Findings) -> Figure | None:
    curves: Mapping[str, Sequence[Mapping[str, float]]] = findings.results.curves
    groups = group_curves([label for label in curves if curves[label]])
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    for i, (phase, labels) in enumerate(groups.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for j, label in enumerate(labels):
            steps = [point["step"] for point in curves[label]]
            axes.plot(
                steps,
                [point["loss"] for point in curves[label]],
                color=PALETTE[j % len(PALETTE)],
                linewidth=1.2,
            )
        axes.set_title(phase, fontsize=10, loc="left", fontweight="bold")
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


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the version stamp equal figures are equal files.
    # The layout makes no room for a title that is wider than its axes; "tight" takes in what stands out.
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()
