"""Plots of lines as SVG for the page: their geometry, and the panel of a learning curve."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from msm_jax.analysis.plots import PALETTE

CURVE_POINTS = 160
WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 22, 10, 26


def loss_panel(phase: str, runs: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Returns a panel with one line of loss per run, and the learning rate of the first run as a thin line on a scale
    of its own."""
    thinned = [_thin(run) for run in runs]
    finite = [p["loss"] for series in thinned for p in series if math.isfinite(p["loss"])]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    margin = 0.05 * (high - low) or 0.5
    low, high = max(0.0, low - margin) if low >= 0 else low - margin, high + margin
    last_step = max(p["step"] for series in thinned for p in series) or 1
    parts = []
    for tick in ticks(low, high):
        y = height_of(tick, low, high)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    # Steps count from 0, so the last step of a run of 6,000 is 5,999; the tick at 6,000 still marks its end.
    for tick in ticks(0, last_step + 1):
        x = LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, tick / last_step)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{tick:,.0f}</text>')
    rates = [(p["step"], p["learning_rate"]) for p in thinned[0] if "learning_rate" in p]
    peak = max((rate for _, rate in rates), default=0.0)
    if peak > 0:
        parts.append(f'<path class="rate" d="{path([(s / last_step, r / peak) for s, r in rates])}"/>')
    for j, series in enumerate(thinned):
        line = [
            (p["step"] / last_step, (p["loss"] - low) / (high - low))
            for p in series
            if math.isfinite(p["loss"])
        ]
        parts.append(f'<path class="line" stroke="{PALETTE[j % len(PALETTE)]}" d="{path(line)}"/>')
    final = [series[-1]["loss"] for series in thinned]
    ends = f"loss {min(final):.2f}" if len(final) == 1 else f"loss {min(final):.2f} to {max(final):.2f}"
    note = f"ends at {ends}" + (f", {len(final)} runs" if len(final) > 1 else "")
    body = (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(phase)}: {note}">{"".join(parts)}</svg>'
    )
    rate_note = f"peak learning rate {peak:.2g}" if peak > 0 else ""
    return {"phase": phase, "note": note, "rate": rate_note, "svg": Markup(body)}


def _thin(series: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Returns at most `CURVE_POINTS` of the points, the first and the last among them."""
    if len(series) <= CURVE_POINTS:
        return list(series)
    last = len(series) - 1
    return [series[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]


def path(line: Sequence[tuple[float, float]]) -> str:
    """Returns the SVG path through points whose coordinates are shares of the plot's width and height."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return (
        "M" + "L".join(f"{LEFT + width * x:.1f} {TOP + height * (1 - y):.1f}" for x, y in line)
        if line
        else "M0 0"
    )


def height_of(value: float, low: float, high: float) -> float:
    """Returns the y of a value in a plot whose axis goes from `low` to `high`."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def ticks(low: float, high: float) -> list[float]:
    """Returns three to six round numbers between `low` and `high`."""
    raw = (high - low) / 5
    scale = 10 ** math.floor(math.log10(raw))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= raw)
    return [round(step * k, 10) for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
