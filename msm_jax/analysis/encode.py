"""The content of report.json."""

import math
from collections.abc import Mapping
from typing import Any

from msm_jax.analysis import power, reference_table, statistics
from msm_jax.analysis import results as results_lib
from msm_jax.analysis.asked import CurveSpec
from msm_jax.analysis.effects import Effect, effects
from msm_jax.analysis.findings import ArmFinding, ContrastFinding, Expected, Findings, expected
from msm_jax.analysis.grids import Difference, Grid, Level
from msm_jax.analysis.reasons import Rate
from msm_jax.analysis.verdicts import worst

SCHEMA_VERSION = 1


def content(findings: Findings) -> dict[str, Any]:
    """Returns the content of report.json: numbers have six decimals, and a number that does not exist is null."""
    checked, contrasts = findings.results, findings.contrasts
    verdicts = {name: finding.verdicts for name, finding in contrasts.items()}
    for level in findings.levels:
        verdicts[level.name] = (*verdicts.get(level.name, ()), *level.verdicts)
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": checked.experiment,
        "seeds": [dict(seed) for seed in checked.seeds],
        "arms": {
            arm: {name: _arm_json(found) for name, found in evals.items()} for arm, evals in findings.arms.items()
        },
        "contrasts": {name: _contrast_json(finding) for name, finding in contrasts.items()},
        "gates": {
            name: {level.arm: _json_number(level.mean) for level in findings.levels if level.name == name}
            for name in checked.gates
        },
        "expectations": {name: worst(verdicts[name]) for name in checked.expectations if verdicts[name]},
        "verdicts": [_verdict_json(row) for row in expected(findings)],
        "reference": [_reference_json(row) for row in reference_table.rows(findings)],
        "grids": {name: _grid_json(grid) for name, grid in findings.grids.items()},
        "reasons": {
            name: {arm: {reason: _rate_json(found) for reason, found in rates.items()} for arm, rates in arms.items()}
            for name, arms in findings.reasons.items()
        },
        "curves": {name: _curve_json(findings, spec) for name, spec in checked.dose_curves.items()},
        "cost": {phase: _cost_json(cost) for phase, cost in checked.cost.items()},
        "goodput": {
            phase: {kind: round(seconds, 3) for kind, seconds in vars(row).items()}
            for phase, row in checked.goodput.items()
        },
        "arm_cost": {arm: _effect_json(effect) for arm, effect in effects(findings).items()},
        "warnings": list(findings.warnings),
    }


def _verdict_json(row: Expected) -> dict[str, Any]:
    return {
        "name": row.name,
        "eval": row.eval,
        "arm": row.arm,
        "measure": row.measure,
        "value": _json_number(row.value),
        "ci95": [_json_number(bound) for bound in row.ci95],
        "checks": [{"status": verdict.status, "text": verdict.text} for verdict in row.verdicts],
    }


def _reference_json(row: reference_table.Row) -> dict[str, Any]:
    numbers = {name: _json_number(getattr(row, name)) for name in ("theirs", "ours", "deviation")}
    ci95 = [_json_number(bound) for bound in row.ci95]
    return {"eval": row.eval, "arm": row.arm, "source": row.source, **numbers, "ci95": ci95, "inside": row.inside}


def _grid_json(grid: Grid) -> dict[str, Any]:
    def levels(arms: Mapping[str, Mapping[str, Level]]) -> dict[str, Any]:
        return {arm: {cell: _level_json(level) for cell, level in cells.items()} for arm, cells in arms.items()}

    contrasts = {
        name: {cell: _difference_json(found) for cell, found in cells.items()} for name, cells in grid.contrasts.items()
    }
    return {"arms": levels(grid.arms), "acts": levels(grid.acts), "contrasts": contrasts}


def _rate_json(found: Rate) -> dict[str, Any]:
    return {
        "rate": _json_number(found.rate),
        "ci95": [_json_number(bound) for bound in (found.interval.low, found.interval.high)],
        "seeds": found.seeds,
        "transcripts": found.transcripts,
        "without_verdict": _json_number(found.without_verdict),
    }


def _level_json(level: Level) -> dict[str, Any]:
    ends = [_json_number(bound) for bound in (level.interval.low, level.interval.high)]
    return {"mean": _json_number(level.mean), "ci95": ends, "n_items": level.n_items}


def _difference_json(found: Difference) -> dict[str, Any]:
    estimate = found.estimate
    return {
        "diff": _json_number(estimate.diff),
        "ci95": [_json_number(bound) for bound in estimate.ci95],
        "p_value": _json_number(estimate.p_value),
        "p_holm": _json_number(found.p_holm),
        "effect_size": _json_number(estimate.effect),
        "effect_size_of": estimate.effect_of or None,
        "n_seeds": estimate.n_seeds,
        "n_items": estimate.n_items,
    }


def _curve_json(findings: Findings, spec: CurveSpec) -> dict[str, Any]:
    def level(arm: str, on: str) -> dict[str, Any]:
        found = findings.arms[arm][on]
        ends = [_json_number(bound) for bound in (found.interval.low, found.interval.high)]
        return {"arm": arm, "mean": _json_number(found.summary.mean), "ci95": ends}

    return {
        "x": list(spec.x),
        "xlabel": spec.xlabel,
        "evals": {
            on: {label: [level(arm, on) for arm in arms] for label, arms in spec.series.items()} for on in spec.evals
        },
    }


def _effect_json(effect: Effect) -> dict[str, Any]:
    return {
        "own": _cost_json(effect.cost.own),
        "total": _cost_json(effect.cost.total),
        "since": effect.cost.since or None,
        "levels": {
            on: {"mean": _json_number(level), "change": None if change is None else _json_number(change)}
            for on, (level, change) in effect.levels.items()
        },
    }


def _cost_json(cost: results_lib.Cost) -> dict[str, float]:
    numbers = {name: value for name, value in vars(cost).items() if name != "runs"}
    return {name: value if isinstance(value, int) else round(value, 3) for name, value in numbers.items()}


def _arm_json(finding: ArmFinding) -> dict[str, Any]:
    entry = _summary_json(finding.summary, finding.shared) | {"n_items": finding.summary.n_items}
    if finding.measures:
        entry["measures"] = {
            name: _summary_json(summary, finding.shared) for name, (summary, _) in finding.measures.items()
        }
    if finding.act:
        mean, interval = finding.act
        ends = [_json_number(bound) for bound in (interval.low, interval.high)]
        entry["act"] = {"mean": _json_number(mean), "ci95": ends}
    if finding.rates:
        entry["rates"] = {name: _json_number(rate) for name, rate in finding.rates.items()}
    return entry if finding.parse_rate is None else {**entry, "parse_rate": _json_number(finding.parse_rate)}


def _summary_json(summary: statistics.ArmSummary, shared: bool) -> dict[str, Any]:
    return {
        "mean": _json_number(summary.mean),
        "sem": _json_number(summary.sem),
        "per_seed": None if shared else [_json_number(mean) for mean in summary.per_seed],
    }


def _contrast_json(finding: ContrastFinding) -> dict[str, Any]:
    estimate = finding.estimate
    entry = {
        "eval": ", ".join(finding.evals),
        "measure": finding.measure,
        "diff": _json_number(estimate.diff),
        "ci95": [_json_number(bound) for bound in estimate.ci95],
        "p_value": _json_number(estimate.p_value),
        "method": estimate.method,
        "n_seeds": estimate.n_seeds,
        "n_items": estimate.n_items,
        "p_holm": _json_number(finding.p_holm),
        "planned": finding.planned,
        "range": [_json_number(estimate.within.low), _json_number(estimate.within.high)],
        "effect_size": _json_number(estimate.effect),
        "effect_size_of": estimate.effect_of or None,
        "detectable": _json_number(power.detectable(estimate.spread)),
    }
    if finding.gains is None:
        return entry
    gains = finding.gains
    return entry | {
        "equal_level": {
            "level": [_json_number(bound) for bound in gains.level],
            "more": _json_number(gains.more),
            "less": _json_number(gains.less),
            "levels": {
                name: {"more": [*map(_json_number, more)], "less": [*map(_json_number, less)]}
                for name, (more, less) in zip(finding.evals, gains.levels, strict=False)
            },
        }
    }


def _json_number(value: float) -> float | None:
    """Returns a number rounded to six decimals, which hides the last bits of a sum; None for NaN, which JSON lacks."""
    return round(value, 6) if math.isfinite(value) else None
