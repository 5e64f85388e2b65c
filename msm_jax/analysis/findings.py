"""The analysis of an experiment's scores: summaries of arms, contrasts in plain sentences, verdicts on what was
expected, and warnings."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from msm_jax.analysis import results as results_lib
from msm_jax.analysis import statistics
from msm_jax.foundation import settings

SCHEMA_VERSION = 1
MIN_MIDTRAINING_STEPS = 200
# Texts of different corpora fill rows a little differently; a smaller share than this is not a different dose.
TOKEN_TOLERANCE = 0.02
MIN_PARSE_RATE = 0.95
# Intervals of single arms are drawn, not tested, and there are many of them.
ARM_DRAWS = 2_000
# The most arms that a warning lists by name.
_LISTED = 4
MINUS = "\u2212"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether something expected holds: `status` is "met", "failed" or "open" (not resolved), and `text` says why."""

    status: str
    text: str


@dataclasses.dataclass(frozen=True)
class ArmFinding:
    """One arm on one eval; `parse_rate` is None where no answer had to be parsed."""

    summary: statistics.ArmSummary
    interval: statistics.Interval
    parse_rate: float | None
    shared: bool


@dataclasses.dataclass(frozen=True)
class ContrastFinding:
    """A contrast with its estimate, the sentence that states it, and the verdicts on what was expected of it."""

    eval: str
    terms: Mapping[str, float]
    estimate: statistics.Contrast
    sentence: str
    expected: str
    verdicts: tuple[Verdict, ...]


@dataclasses.dataclass(frozen=True)
class GateFinding:
    """An eval that an arm was measured by as a check; `verdict` is None where no minimum was expected of it."""

    eval: str
    arm: str
    mean: float
    expected: str
    verdict: Verdict | None


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that the report shows; `report` is the content of report.json."""

    results: results_lib.Results
    arms: Mapping[str, Mapping[str, ArmFinding]]
    contrasts: Mapping[str, ContrastFinding]
    gates: tuple[GateFinding, ...]
    warnings: tuple[str, ...]
    report: Mapping[str, Any]


def analyse(results: Mapping[str, Any]) -> Findings:
    """Computes the findings from `results` (see `msm_jax.analysis.results`); equal inputs give equal findings.

    Raises:
        InputError: `results` is not of that form.
    """
    checked = settings.build(results_lib.Results, results, "results")
    arms = {
        arm: {name: _arm(scores, arm in checked.shared_arms) for name, scores in evals.items()}
        for arm, evals in checked.arms.items()
    }
    contrasts = {name: _contrast(checked, name) for name in checked.contrasts}
    gates = tuple(_gates(checked, arms))
    warnings = tuple(dict.fromkeys([*_warnings(checked, arms, contrasts, gates), *checked.warnings]))
    report = _report(checked, arms, contrasts, gates, warnings)
    return Findings(checked, arms, contrasts, gates, warnings, report)


def points(value: float, signed: bool = False) -> str:
    """Returns a share or a difference in percentage points, "−12" or with `signed` "+48"; "n/a" for NaN."""
    if not math.isfinite(value):
        return "n/a"
    rounded = round(100 * value)
    sign = MINUS if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}{abs(rounded)}"


def seeds_text(n: int) -> str:
    """Returns the number of seeds in words, "1 seed" or "3 seeds"."""
    return "1 seed" if n == 1 else f"{n} seeds"


def _arm(scores: results_lib.Scores, shared: bool) -> ArmFinding:
    ran_SN = scores.values_SN[scores.ran_S]
    if len(ran_SN) == 0:
        nothing = statistics.ArmSummary(
            math.nan, math.nan, len(scores.item_ids), (math.nan,) * len(scores.ran_S), math.nan
        )
        return ArmFinding(nothing, statistics.interval95(ran_SN), scores.parse_rate, shared)
    share = float(np.isfinite(ran_SN).mean())
    parse_rate = scores.parse_rate if scores.parse_rate is not None else share if share < 1 else None
    summary = statistics.summarise(scores.values_SN)
    return ArmFinding(summary, statistics.interval95(ran_SN, draws=ARM_DRAWS), parse_rate, shared)


def _contrast(checked: results_lib.Results, name: str) -> ContrastFinding:
    spec = checked.contrasts[name]
    estimate = statistics.contrast(
        {arm: checked.arms[arm][spec.eval].values_SN for arm in spec.terms}, spec.terms
    )
    expectation = checked.expectations.get(name, results_lib.Expectation())
    verdicts = tuple(_verdicts(estimate, expectation))
    return ContrastFinding(
        spec.eval, spec.terms, estimate, _sentence(spec, estimate), expectation.sentence, verdicts
    )


def _sentence(spec: results_lib.ContrastSpec, estimate: statistics.Contrast) -> str:
    if not math.isfinite(estimate.diff):
        return f"No item of {spec.eval} has a score in every arm, so nothing can be said."
    amount = points(abs(estimate.diff))
    if spec.sentence:
        claim = spec.sentence.format(
            points=amount, direction="more" if estimate.diff >= 0 else "less"
        ).rstrip(". ")
    elif sorted(spec.terms.values()) == [-1, 1]:
        upper, lower = sorted(spec.terms, key=lambda arm: -spec.terms[arm])
        direction = "higher" if estimate.diff >= 0 else "lower"
        claim = f"On {spec.eval}, {upper} scores {amount} points {direction} than {lower}"
    else:
        claim = (
            f"On {spec.eval}, {combination(spec.terms)} comes to {points(estimate.diff, signed=True)} points"
        )
    low, high = estimate.ci95
    of_what = "95 % interval of the difference" if estimate.diff < 0 else "95 % interval"
    zero = "; it includes 0" if low <= 0 <= high else ""
    return f"{claim} ({of_what} {points(low)} to {points(high)}{zero}), {seeds_text(estimate.n_seeds)}."


def combination(terms: Mapping[str, float]) -> str:
    """Returns the terms as a formula, "a − b + 2·c"."""
    parts: list[str] = []
    for arm, coefficient in terms.items():
        sign = MINUS if coefficient < 0 else "+" if parts else ""
        factor = "" if abs(coefficient) == 1 else f"{abs(coefficient):g}·"
        parts.append(f"{sign} {factor}{arm}" if parts else f"{sign}{factor}{arm}")
    return " ".join(parts)


def _verdicts(estimate: statistics.Contrast, expected: results_lib.Expectation) -> Iterator[Verdict]:
    low = estimate.ci95[0]
    if not math.isfinite(estimate.diff):
        if expected != results_lib.Expectation(sentence=expected.sentence):
            yield Verdict("open", "nothing was scored")
        return
    if expected.min is not None:
        yield _at_least(estimate.diff, expected.min, "points")
    if expected.above_zero:
        yield Verdict("met", "interval above 0") if low > 0 else Verdict("failed", "interval not above 0")
    if expected.inside is not None:
        yield _inside(estimate, expected.inside)


def _inside(estimate: statistics.Contrast, limit: float) -> Verdict:
    low, high = estimate.ci95
    bound = f"±{points(limit)} points"
    if -limit < low and high < limit:
        return Verdict("met", f"inside {bound}")
    if not low <= 0 <= high:
        return Verdict("failed", f"outside {bound}")
    # An estimate within the limit resolves when its interval fits inside, any other when it leaves 0.
    distance = abs(estimate.diff)
    seeds = statistics.seeds_to_resolve(
        estimate.differences, limit - distance if distance < limit else distance
    )
    if seeds is not None:
        return Verdict("open", f"not resolved within {bound}: {seeds} seeds would")
    if estimate.n_seeds < 2:
        return Verdict("open", f"not resolved within {bound}: one seed does not show how many would")
    return Verdict("open", f"not resolved within {bound}: more seeds alone would not, more items are needed")


def _gates(
    checked: results_lib.Results, arms: Mapping[str, Mapping[str, ArmFinding]]
) -> Iterator[GateFinding]:
    names = [*checked.gates, *(name for name in checked.expectations if name not in checked.contrasts)]
    for name in dict.fromkeys(names):
        expectation = checked.expectations.get(name, results_lib.Expectation())
        scored = [arm for arm in arms if name in arms[arm]]
        chosen = (
            [expectation.arm]
            if expectation.arm
            else [arm for arm in scored if arms[arm][name].shared] or scored
        )
        for arm in chosen:
            mean = arms[arm][name].summary.mean
            verdict = None if expectation.min is None else _at_least(mean, expectation.min, "%")
            yield GateFinding(name, arm, mean, expectation.sentence, verdict)


def _at_least(value: float, least: float, unit: str) -> Verdict:
    if value >= least:
        return Verdict("met", f"at least {points(least)} {unit}")
    return Verdict("failed", f"below {points(least)} {unit}")


def _warnings(
    checked: results_lib.Results,
    arms: Mapping[str, Mapping[str, ArmFinding]],
    contrasts: Mapping[str, ContrastFinding],
    gates: tuple[GateFinding, ...],
) -> Iterator[str]:
    for gate in gates:
        if gate.verdict and gate.verdict.status != "met":
            share = f"{points(gate.mean)} %" if math.isfinite(gate.mean) else "not measured"
            reading = "; read no arm before it passes" if gate.eval in checked.gates else ""
            yield f"{gate.eval} of {gate.arm} is {share}, {gate.verdict.text}{reading}."
    if len(checked.seeds) == 1:
        yield "One seed: intervals show the spread over items alone, not over training runs."
    for phase, cost in checked.cost.items():
        steps = cost.optimizer_steps / max(1, cost.runs)
        if phase in checked.midtraining and steps < MIN_MIDTRAINING_STEPS:
            few = f"under {MIN_MIDTRAINING_STEPS} midtraining may not take hold"
            yield f"{phase} took {steps:g} optimizer steps per run; {few}."
    for name in checked.evals():
        poor = [
            (arm, f.parse_rate) for arm in arms if (f := arms[arm].get(name)) and f.parse_rate is not None
        ]
        poor = [(arm, rate) for arm, rate in poor if rate < MIN_PARSE_RATE]
        if poor:
            shown = [f"{arm} ({100 * rate:.0f} %)" for arm, rate in sorted(poor, key=lambda entry: entry[1])]
            more = f" and {len(shown) - _LISTED} more arms" if len(shown) > _LISTED else ""
            listed = ", ".join(shown[:_LISTED]) + more
            below = f"parse rate below {100 * MIN_PARSE_RATE:.0f} % in {listed}"
            yield f"{name}: {below}; unparsed replies are left out of the means."
    yield from _token_warnings(checked)
    for name, contrast in contrasts.items():
        if not math.isfinite(contrast.estimate.diff):
            yield f"{name}: no item of {contrast.eval} has a score in every arm."
        elif contrast.estimate.n_seeds < _runs(contrast, arms):
            used = f"{contrast.estimate.n_seeds} of {len(checked.seeds)} seeds"
            yield f"{name} rests on {used}; the others lack a score in some arm."
        for verdict in contrast.verdicts:
            if verdict.status != "met" and math.isfinite(contrast.estimate.diff):
                low, high = (points(bound) for bound in contrast.estimate.ci95)
                estimate = f"{points(contrast.estimate.diff, signed=True)} points, interval {low} to {high}"
                yield f"{name} ({estimate}): {verdict.text}."


def _runs(contrast: ContrastFinding, arms: Mapping[str, Mapping[str, ArmFinding]]) -> int:
    """Returns how many seeds the contrast would have if no score were missing: 1 if all its arms are shared."""
    return max(len(arms[arm][contrast.eval].summary.per_seed) for arm in contrast.terms)


def _token_warnings(checked: results_lib.Results) -> Iterator[str]:
    # Arms with another dose of midtraining are compared with each other, not with the arms whose dose they are.
    dose_of = {arm: dose for dose, arms in checked.doses.items() for arm in arms}
    doses = dict.fromkeys(dose_of.get(arm) for arm in checked.arm_tokens)
    for field, what in (("last", "the last stage"), ("midtraining", "midtraining")):
        for dose in doses:
            counts: dict[int, list[str]] = {}
            for arm, tokens in checked.arm_tokens.items():
                count = getattr(tokens, field)
                if dose_of.get(arm) == dose and count > 0:
                    counts.setdefault(count, []).append(arm)
            if counts and min(counts) < (1 - TOKEN_TOLERANCE) * max(counts):
                found = "; ".join(f"{n:,} in {', '.join(counts[n])}" for n in sorted(counts))
                yield f"Arms have unequal tokens in {what}: {found}."


def _report(
    checked: results_lib.Results,
    arms: Mapping[str, Mapping[str, ArmFinding]],
    contrasts: Mapping[str, ContrastFinding],
    gates: tuple[GateFinding, ...],
    warnings: tuple[str, ...],
) -> dict[str, Any]:
    verdicts = {name: finding.verdicts for name, finding in contrasts.items()}
    for gate in gates:
        verdicts[gate.eval] = (*verdicts.get(gate.eval, ()), *([gate.verdict] if gate.verdict else []))
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": checked.experiment,
        "seeds": [dict(seed) for seed in checked.seeds],
        "arms": {
            arm: {name: _arm_json(found) for name, found in evals.items()} for arm, evals in arms.items()
        },
        "contrasts": {name: _contrast_json(finding) for name, finding in contrasts.items()},
        "gates": {
            name: {gate.arm: _json_number(gate.mean) for gate in gates if gate.eval == name} for name in checked.gates
        },
        "expectations": {name: _worst(verdicts[name]) for name in checked.expectations if verdicts[name]},
        "cost": {phase: _cost_json(cost) for phase, cost in checked.cost.items()},
        "warnings": list(warnings),
    }


def _worst(verdicts: tuple[Verdict, ...]) -> str:
    """Returns "failed" if one of the verdicts is, else "open" if one is, else "met"."""
    return min((verdict.status for verdict in verdicts), key=("failed", "open", "met").index)


def _cost_json(cost: results_lib.Cost) -> dict[str, float]:
    numbers = {name: value for name, value in vars(cost).items() if name != "runs"}
    return {name: value if isinstance(value, int) else round(value, 3) for name, value in numbers.items()}


def _arm_json(finding: ArmFinding) -> dict[str, Any]:
    summary = finding.summary
    entry = {
        "mean": _json_number(summary.mean),
        "sem": _json_number(summary.sem),
        "n_items": summary.n_items,
        "per_seed": None if finding.shared else [_json_number(mean) for mean in summary.per_seed],
    }
    return entry if finding.parse_rate is None else {**entry, "parse_rate": _json_number(finding.parse_rate)}


def _contrast_json(finding: ContrastFinding) -> dict[str, Any]:
    estimate = finding.estimate
    return {
        "eval": finding.eval,
        "diff": _json_number(estimate.diff),
        "ci95": [_json_number(bound) for bound in estimate.ci95],
        "p_value": _json_number(estimate.p_value),
        "method": estimate.method,
        "n_seeds": estimate.n_seeds,
        "n_items": estimate.n_items,
    }


def _json_number(value: float) -> float | None:
    """Returns a number rounded to six decimals, which hides the last bits of a sum; None for NaN, which JSON lacks."""
    return round(value, 6) if math.isfinite(value) else None
