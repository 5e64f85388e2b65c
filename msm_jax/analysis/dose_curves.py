"""Dose curves: the level of arms by a dose, with a line for each series and a band for its 95 % interval.

A curve has a plot for each eval, in shares. Where the doses span more than a factor of ten, the axis is linear up to
the smallest dose above 0 and logarithmic beyond it, so that a dose of 0 has its place too.
"""

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from msm_jax.analysis import lines, plots
from msm_jax.analysis.asked import CurveSpec
from msm_jax.analysis.findings import ArmFinding, Findings
from msm_jax.analysis.lines import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

_WIDE = 10


def render(findings: Findings) -> dict[str, bytes]:
    """Returns {file name: PNG bytes}, one figure for each curve, with a plot for each eval."""
    return {
        f"doses_{re.sub(r'[^A-Za-z0-9_.+@-]', '_', name)}.png": plots.png(_figure(findings, name, spec))
        for name, spec in findings.results.dose_curves.items()
    }


def sections(findings: Findings) -> list[dict[str, Any]]:
    """Returns what the page shows of each curve: its plots as SVG, its key, and its numbers as a table."""
    return [
        {
            "name": name,
            "xlabel": spec.xlabel,
            "plots": [{"eval": on, "svg": Markup(_svg(findings, spec, on))} for on in spec.evals],
            "key": [(label, _color(i)) for i, label in enumerate(spec.series)],
            "doses": [f"{x:g}" for x in spec.x],
            "rows": [
                {"series": label, "eval": on, "cells": [_cell(found) for found in _levels(findings, arms, on)]}
                for on in spec.evals
                for label, arms in spec.series.items()
            ],
        }
        for name, spec in findings.results.dose_curves.items()
    ]


def position(x: float, doses: Sequence[float]) -> float:
    """Returns the place of a dose on the axis, from 0 at the smallest of `doses` to 1 at the largest.

    Doses above 0 that span more than a factor of ten are spaced by their logarithms; those up to the smallest of them
    take the room of a factor of e. All others are spaced evenly.
    """

    def scaled(x: float) -> float:
        if doses[0] < 0 or positive[-1] <= _WIDE * positive[0]:
            return x
        return x / positive[0] if x <= positive[0] else 1 + math.log(x / positive[0])

    positive = [dose for dose in doses if dose > 0] or [1.0]
    low, high = scaled(doses[0]), scaled(doses[-1])
    return (scaled(x) - low) / (high - low)


def _color(index: int) -> str:
    return plots.PALETTE[index % len(plots.PALETTE)]


def _levels(findings: Findings, arms: Sequence[str], on: str) -> list[ArmFinding]:
    return [findings.arms[arm][on] for arm in arms]


def _cell(found: ArmFinding) -> str:
    if not math.isfinite(found.summary.mean):
        return "n/a"
    low, high = (round(100 * max(0.0, min(1.0, bound))) for bound in (found.interval.low, found.interval.high))
    return f"{100 * found.summary.mean:.0f} [{low}, {high}]"


def _band(spec: CurveSpec, found: Sequence[ArmFinding]) -> list[tuple[float, float, float, float]]:
    """Returns (place on the axis, mean, low, high) of each dose that has a score; shares are cut to [0, 1]."""
    return [
        (position(x, spec.x), level.summary.mean, max(0.0, level.interval.low), min(1.0, level.interval.high))
        for x, level in zip(spec.x, found, strict=True)
        if math.isfinite(level.summary.mean)
    ]


def _labelled(spec: CurveSpec, room: float) -> list[tuple[float, str]]:
    """Returns (place, label) of the doses whose labels do not touch; `room` is a label's width as a share."""
    shown: list[tuple[float, str]] = []
    for x in spec.x:
        at = position(x, spec.x)
        if not shown or at - shown[-1][0] >= room:
            shown.append((at, f"{x:,g}"))
    return shown


def _svg(findings: Findings, spec: CurveSpec, on: str) -> str:
    width = WIDTH - LEFT - RIGHT
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = lines.height_of(tick, 0, 1)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{100 * tick:.0f}</text>')
    for at, label in _labelled(spec, 0.11):
        parts.append(f'<text x="{LEFT + width * at:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{label}</text>')
    for i, arms in enumerate(spec.series.values()):
        band = _band(spec, _levels(findings, arms, on))
        around = [(at, high) for at, _, _, high in band] + [(at, low) for at, _, low, _ in reversed(band)]
        parts.append(f'<path class="band" style="fill:{_color(i)}" d="{lines.path(around)}Z"/>')
        middle = lines.path([(at, mean) for at, mean, *_ in band])
        parts.append(f'<path class="line" stroke="{_color(i)}" d="{middle}"/>')
        for at, mean, *_ in band:
            x, y = LEFT + width * at, TOP + (HEIGHT - TOP - BOTTOM) * (1 - mean)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{_color(i)}"/>')
    label = escape(f"{on} by {spec.xlabel}")
    return f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _figure(findings: Findings, name: str, spec: CurveSpec) -> Figure:
    figure = Figure(figsize=(4.4 * len(spec.evals), 3.3), layout="constrained")
    for i, on in enumerate(spec.evals):
        axes = figure.add_subplot(1, len(spec.evals), i + 1)
        for j, (label, arms) in enumerate(spec.series.items()):
            band = _band(spec, _levels(findings, arms, on))
            at, mean, low, high = zip(*band, strict=True) if band else ((), (), (), ())
            axes.fill_between(at, low, high, color=_color(j), alpha=0.15, linewidth=0)
            axes.plot(at, mean, "o-", color=_color(j), linewidth=1.6, markersize=4, label=label)
        ticks = _labelled(spec, 0.09)
        axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.set_yticks((0, 0.25, 0.5, 0.75, 1), [f"{y} %" for y in (0, 25, 50, 75, 100)])
        axes.set_ylim(0, 1)
        axes.set_title(on, fontsize=10, loc="left", fontweight="bold")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.tick_params(length=0, labelsize=8)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        if i == 0:
            axes.legend(fontsize=7, frameon=False)
    figure.suptitle(name, fontsize=10)
    figure.supxlabel(f"{spec.xlabel}; mean over seeds with its 95 % interval", fontsize=8, color=plots.GREY)
    return figure
