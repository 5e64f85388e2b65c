"""The report as one HTML file that opens offline: it has no script, makes no request, and holds every figure."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from msm_jax.analysis import dose_curves, evidence, graph, grid_tables, lines, reasons, reference_table
from msm_jax.analysis.effects import Effect, effects
from msm_jax.analysis.findings import ArmFinding, ContrastFinding, Expected, Findings, expected
from msm_jax.analysis.plots import arm_colors
from msm_jax.analysis.results import short_labels
from msm_jax.analysis.sentences import MINUS, amount, effect_text, p_text, points, seeds_text, unit


def render(findings: Findings) -> str:
    """Returns the page for `findings`; all text that came from outside is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    files = resources.files("msm_jax.analysis")
    source = files.joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment.filters |= {"name": _name, "prose": _prose}
    results = findings.results
    evals = results.evals()
    axes = {of: _axis(findings, of) for of in ("points", "nats")}
    arms = [name for name in evals if name not in results.gates]
    curves = {label: [run for run in runs if len(run) > 1] for label, runs in results.curves.items()}
    short = short_labels(label for label in curves if curves[label])
    return environment.from_string(source).render(
        style=Markup(files.joinpath("page.css").read_text(encoding="utf-8")),
        findings=findings,
        results=results,
        seeds=seeds_text(len(results.seeds)),
        headline=_headline(findings),
        contrasts=[_contrast(name, finding, axes) for name, finding in findings.contrasts.items()],
        expected=[_expected(row) for row in expected(findings)],
        measures=_measures(findings),
        doses=dose_curves.sections(findings),
        reference=reference_table.section(findings),
        effects=_effects(findings),
        axes={of: axis.ticks(of) for of, axis in axes.items()},
        panels=[_panel(findings, name) for name in arms if name not in results.generated],
        generated_panels=[_panel(findings, name) for name in arms if name in results.generated],
        gate_panels=[_panel(findings, name) for name in evals if name in results.gates],
        curves=[lines.loss_panel(phase, curves[label]) for label, phase in short.items()],
        graph=Markup(graph.svg(results.graph)),
        graph_counts=_graph_counts(findings),
        cost=_cost(findings),
        goodput={phase: _goodput_row(vars(row)) for phase, row in results.goodput.items()},
        behind=evidence.rates(findings),
        grids=grid_tables.sections(findings),
        reasons=reasons.sections(findings.reasons, results.codes),
        transcripts=evidence.transcripts(findings),
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
        "planned": finding.planned,
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
        "p_holm": p_text(finding.p_holm),
        "effect": effect_text(estimate.effect, estimate.effect_of),
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


def _expected(row: Expected) -> dict[str, Any]:
    """Returns a row of the table of what was expected; a level is in %, a difference in its own unit."""
    low, high = (amount(bound, row.measure) for bound in row.ci95)
    of_level = bool(row.arm)
    value = amount(row.value, row.measure, signed=not of_level)
    return {
        "name": row.name,
        "planned": row.planned,
        "what": f"{row.eval} of {row.arm}" if of_level else row.eval,
        "value": f"{value} {'%' if of_level else unit(row.measure)}",
        "interval": f"{low} to {high}",
        "sentence": row.sentence,
        "verdicts": row.verdicts,
    }


def _measures(findings: Findings) -> list[dict[str, Any]]:
    """Returns a table for each measure beside the share: its evals, and a row of means for each arm."""
    tables = []
    for measure in ("probability", "nats"):
        evals = [
            name
            for name in findings.results.evals()
            if any(measure in found[name].measures for found in findings.arms.values() if name in found)
        ]
        rows = [
            (arm, [_measured(found.get(name), measure) for name in evals]) for arm, found in findings.arms.items()
        ]
        if evals:
            tables.append({"measure": measure, "evals": evals, "rows": rows})
    return tables


def _measured(found: ArmFinding | None, measure: str) -> str:
    if found is None or measure not in found.measures:
        return ""
    summary, interval = found.measures[measure]
    mean, low, high = (amount(value, measure) for value in (summary.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def _effects(findings: Findings) -> dict[str, Any]:
    """Returns the table of costs beside levels: the evals that are its last columns, and a row for each arm."""
    found = effects(findings)
    evals = [name for name in findings.results.evals() if any(name in effect.levels for effect in found.values())]
    return {"evals": evals, "rows": [_effect(arm, effect, evals) for arm, effect in found.items()]}


def _effect(arm: str, effect: Effect, evals: Sequence[str]) -> dict[str, Any]:
    def shown(on: str) -> str:
        level, change = effect.levels.get(on, (math.nan, None))
        by = "" if change is None else f" ({points(change, signed=True)})"
        return f"{points(level)}{by}" if on in effect.levels else ""

    own, total = (_cost_row(arm, vars(cost)) for cost in (effect.cost.own, effect.cost.total))
    return {"arm": arm, "own": own, "total": total, "levels": [shown(on) for on in evals]}


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


def _goodput_row(seconds: Mapping[str, float]) -> dict[str, str]:
    """Returns the whole time of a phase, and the share of it that each kind of work took."""
    total = sum(seconds.values())
    return {"total": graph.duration(total)} | {
        kind: f"{100 * each / total:.1f} %" if each else "" for kind, each in seconds.items()
    }


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
