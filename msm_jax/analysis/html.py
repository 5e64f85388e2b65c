"""The report as one HTML file that opens offline: it has no script, makes no request, and holds every figure."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from msm_jax.analysis import graph
from msm_jax.analysis.findings import ArmFinding, ContrastFinding, Findings
from msm_jax.analysis.plots import PALETTE, arm_colors
from msm_jax.analysis.results import short_labels
from msm_jax.analysis.sentences import MINUS, amount, points, seeds_text, unit

SAMPLES_PER_EVAL = 6
SAMPLE_CHARS = 1_500
CURVE_POINTS = 160
_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 22, 10, 26


def render(findings: Findings) -> str:
    """Returns the page for `findings`; all text that came from outside is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("msm_jax.analysis").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment.filters |= {"name": _name, "prose": _prose}
    results = findings.results
    evals = results.evals()
    axes = {of: _axis(findings, of) for of in ("points", "nats")}
    arms = [name for name in evals if name not in results.gates]
    curves = {label: [run for run in runs if len(run) > 1] for label, runs in results.curves.items()}
    short = short_labels(label for label in curves if curves[label])
    return environment.from_string(source).render(
        findings=findings,
        results=results,
        seeds=seeds_text(len(results.seeds)),
        headline=_headline(findings),
        contrasts=[_contrast(name, finding, axes) for name, finding in findings.contrasts.items()],
        axes={of: axis.ticks(of) for of, axis in axes.items()},
        panels=[_panel(findings, name) for name in arms if name not in results.generated],
        generated_panels=[_panel(findings, name) for name in arms if name in results.generated],
        gate_panels=[_panel(findings, name) for name in evals if name in results.gates],
        curves=[_curve(phase, curves[label]) for label, phase in short.items()],
        graph=Markup(graph.svg(results.graph)),
        graph_counts=_graph_counts(findings),
        cost=_cost(findings),
        samples=[(arm, _samples(evals)) for arm, evals in results.samples.items() if any(evals.values())],
        seed_table=[dict(seed) for seed in results.seeds],
    )


def _name(text: str) -> Markup:
    """Returns a name that may break only after "/", "_", "+" and ":"."""
    return Markup(
        "".join(
            f"{escape(part)}<wbr>" if part in "/_+:" else escape(part) for part in re.split(r"([/_+:])", text)
        )
    )


def _prose(text: str) -> str:
    """Returns text in which a number and its % stay on one line."""
    return text.replace(" %", "\u00a0%")


def _headline(findings: Findings) -> list[dict[str, Any]]:
    """Returns up to four contrasts for the top of the page: those with expectations, or else the first ones."""
    expected = [name for name, contrast in findings.contrasts.items() if contrast.verdicts]
    chosen = (expected or list(findings.contrasts))[:4]
    return [{"name": name, **_estimate(findings.contrasts[name])} for name in chosen]


def _estimate(finding: ContrastFinding) -> dict[str, Any]:
    estimate, measure = finding.estimate, finding.measure
    low, high = (amount(bound, measure) for bound in estimate.ci95)
    return {
        "sentence": finding.sentence,
        "points": amount(estimate.diff, measure, signed=True),
        "unit": unit(measure),
        "interval": f"{low} to {high}" if math.isfinite(estimate.diff) else "n/a",
        "verdicts": finding.verdicts,
        "expected": finding.expected,
    }


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The axis of the contrasts, from `low` to `high` with 0 inside; both are multiples of `step`."""

    low: float
    high: float
    step: float

    def share(self, value: float) -> float:
        """Returns the place of `value` in percent of the width."""
        return round(100 * max(0.0, min(1.0, (value - self.low) / (self.high - self.low))), 3)

    def ticks(self, of: str) -> list[dict[str, Any]]:
        count = round((self.high - self.low) / self.step)
        values = [round(self.low + i * self.step, 6) for i in range(count + 1)]
        return [
            {"at": self.share(value), "label": _tick(value, of), "zero": value == 0}
            for value in values
        ]


def _tick(value: float, of: str) -> str:
    return f"{value:+g}".replace("-", MINUS) if of == "nats" and value else points(value, signed=True)


def _contrast(name: str, finding: ContrastFinding, axes: Mapping[str, _Axis]) -> dict[str, Any]:
    estimate, axis = finding.estimate, axes[unit(finding.measure)]
    shown = {
        "name": name,
        "scored": math.isfinite(estimate.diff),
        "p": p_text(estimate.p_value),
        "n_seeds": seeds_text(estimate.n_seeds),
        "n_items": estimate.n_items,
        "method": estimate.method,
        **_estimate(finding),
    }
    if shown["scored"]:
        low, high = (axis.share(bound) for bound in estimate.ci95)
        shown |= {"low": low, "high": high, "diff": axis.share(estimate.diff), "tone": _tone(estimate.ci95)}
        shown["dots"] = [axis.share(value) for value in estimate.per_seed] if estimate.n_seeds > 1 else []
    return shown


def p_text(p_value: float | None) -> str:
    """Returns a p-value as text, "0.03", "0.0001" or "n/a" where there is none."""
    if p_value is None or not math.isfinite(p_value):
        return "n/a"
    return f"{p_value:.2f}" if p_value >= 0.01 else f"{p_value:.1g}"


def _tone(ci95: tuple[float, float]) -> str:
    return "above" if ci95[0] > 0 else "below" if ci95[1] < 0 else "open"


def _axis(findings: Findings, of: str) -> _Axis:
    shown = [c.estimate for c in findings.contrasts.values() if unit(c.measure) == of]
    bounds = [bound for estimate in shown for bound in estimate.ci95 if math.isfinite(bound)]
    least, most = min([-0.05, *bounds]), max([0.05, *bounds])
    step = next(step for step in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, math.inf) if most - least <= 5 * step)
    step = min(step, most - least)
    return _Axis(step * math.floor(least / step), step * math.ceil(most / step), step)


def _panel(findings: Findings, name: str) -> dict[str, Any]:
    rows = [_bar(findings, arm, evals[name]) for arm, evals in findings.arms.items() if name in evals]
    n_items = max(
        (evals[name].summary.n_items for evals in findings.arms.values() if name in evals), default=0
    )
    checks = [level for level in findings.levels if level.eval == name and level.verdicts]
    return {"eval": name, "rows": rows, "n_items": n_items, "checks": checks}


def _bar(findings: Findings, arm: str, finding: ArmFinding) -> dict[str, Any]:
    color, solid = arm_colors(findings)[arm]
    summary = finding.summary
    scored = math.isfinite(summary.mean)
    low, high = (
        100 * max(0.0, min(1.0, bound)) if scored else 0.0
        for bound in (finding.interval.low, finding.interval.high)
    )
    dots = [100 * value for value in summary.per_seed if math.isfinite(value)]
    spread = f"{100 * summary.mean:.1f} %, 95 % interval {low:.1f} to {high:.1f} ({finding.interval.method})"
    rate = f"{100 * finding.parse_rate:.0f} %" if finding.parse_rate is not None else ""
    return {
        "arm": arm,
        "color": color,
        "solid": solid,
        "scored": scored,
        "mean": round(100 * summary.mean, 3) if scored else 0.0,
        "low": round(low, 3),
        "high": round(high, 3),
        "dots": [round(dot, 3) for dot in dots] if len(dots) > 1 else [],
        "parse_rate": rate,
        "value": f"{100 * summary.mean:.0f} %" if scored else "n/a",
        "title": f"{arm}: {spread}" if scored else f"{arm}: nothing was scored",
    }


def _curve(phase: str, runs: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Returns a panel with one line of loss per run, and the learning rate of the first run as a thin line on a scale
    of its own."""
    thinned = [_thin(run) for run in runs]
    finite = [p["loss"] for series in thinned for p in series if math.isfinite(p["loss"])]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    margin = 0.05 * (high - low) or 0.5
    low, high = max(0.0, low - margin) if low >= 0 else low - margin, high + margin
    last_step = max(p["step"] for series in thinned for p in series) or 1
    parts = []
    for tick in _ticks(low, high):
        y = _y(tick, low, high)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    # Steps count from 0, so the last step of a run of 6,000 is 5,999; the tick at 6,000 still marks its end.
    for tick in _ticks(0, last_step + 1):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(1.0, tick / last_step)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{tick:,.0f}</text>')
    rates = [(p["step"], p["learning_rate"]) for p in thinned[0] if "learning_rate" in p]
    peak = max((rate for _, rate in rates), default=0.0)
    if peak > 0:
        parts.append(f'<path class="rate" d="{_path([(s / last_step, r / peak) for s, r in rates])}"/>')
    for j, series in enumerate(thinned):
        line = [
            (p["step"] / last_step, (p["loss"] - low) / (high - low))
            for p in series
            if math.isfinite(p["loss"])
        ]
        parts.append(f'<path class="line" stroke="{PALETTE[j % len(PALETTE)]}" d="{_path(line)}"/>')
    final = [series[-1]["loss"] for series in thinned]
    ends = f"loss {min(final):.2f}" if len(final) == 1 else f"loss {min(final):.2f} to {max(final):.2f}"
    note = f"ends at {ends}" + (f", {len(final)} runs" if len(final) > 1 else "")
    body = (
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
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


def _path(line: Sequence[tuple[float, float]]) -> str:
    """Returns the SVG path through points whose coordinates are shares of the plot's width and height."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return (
        "M" + "L".join(f"{_LEFT + width * x:.1f} {_TOP + height * (1 - y):.1f}" for x, y in line)
        if line
        else "M0 0"
    )


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))


def _ticks(low: float, high: float) -> list[float]:
    """Returns three to six round numbers between `low` and `high`."""
    raw = (high - low) / 5
    scale = 10 ** math.floor(math.log10(raw))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= raw)
    return [round(step * k, 10) for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _graph_counts(findings: Findings) -> str:
    nodes = findings.results.graph
    reused = sum(node.status == "reused" for node in nodes)
    return f"{len(nodes)} nodes: {len(nodes) - reused} ran, {reused} reused"


def _cost(findings: Findings) -> list[dict[str, str]]:
    """Returns a row per phase, with the sums over its runs, and the total."""
    cost = {phase: vars(row) for phase, row in findings.results.cost.items()}
    rows = [_cost_row(phase, row) for phase, row in cost.items()]
    if len(cost) > 1:
        total = {field: sum(row[field] for row in cost.values()) for field in cost[min(cost)]}
        rows.append(_cost_row("total", total))
    return rows


def _cost_row(phase: str, cost: Mapping[str, float]) -> dict[str, str]:
    return {
        "phase": phase,
        "runs": f"{cost['runs']:,.0f}",
        "tokens": f"{cost['tokens']:,.0f}",
        "optimizer_steps": f"{cost['optimizer_steps']:,.0f}",
        "flops": f"{cost['flops']:.2e}" if cost["flops"] else "0",
        "wall_seconds": graph.duration(cost["wall_seconds"]),
        "device_seconds": graph.duration(cost["device_seconds"]),
    }


def _samples(evals: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[dict[str, Any]], int]]:
    shown = []
    for name, samples in evals.items():
        if samples:
            shown.append((name, [_sample(sample) for sample in samples[:SAMPLES_PER_EVAL]], len(samples)))
    return shown


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    prompt = sample["prompt"]
    turns = (
        [("", prompt)]
        if isinstance(prompt, str)
        else [(m.get("role", ""), m.get("content", "")) for m in prompt]
    )
    outcome = [(name, _value(sample[name])) for name in ("parsed", "score") if sample.get(name) is not None]
    unparsed = "parsed" in sample and sample["parsed"] is None
    return {
        "turns": [(role, _clip(str(text))) for role, text in turns],
        "reply": _clip(str(sample["reply"])),
        "outcome": outcome,
        "unparsed": unparsed,
    }


def _value(value: Any) -> str:
    return (
        f"{value:.2f}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def _clip(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS].rstrip() + " …"
