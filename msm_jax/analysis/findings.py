"""The analysis of an experiment's scores: summaries of arms, contrasts in plain sentences, verdicts on what was
expected, and warnings."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from msm_jax.analysis import asked, equal_level, grids, limits, rates, reasons, sentences, statistics, verdicts
from msm_jax.analysis import results as results_lib
from msm_jax.analysis.intervals import Interval
from msm_jax.analysis.sentences import amount, points, unit
from msm_jax.analysis.verdicts import Verdict
from msm_jax.foundation import settings

MIN_MIDTRAINING_STEPS = 200
# Texts of different corpora fill rows a little differently; a smaller share than this is not a different dose.
TOKEN_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class ArmFinding:
    """One arm on one eval; `parse_rate` is None where no answer had to be parsed.

    `measures` holds the same by the other measures, "probability" and "nats", where the eval has them, and `rates` the
    further figures of the eval, means over seeds. `act` is mean and interval of the concrete act, for an eval whose
    score is a verdict.
    """

    summary: statistics.ArmSummary
    interval: Interval
    parse_rate: float | None
    shared: bool
    measures: Mapping[str, tuple[statistics.ArmSummary, Interval]]
    rates: Mapping[str, float]
    act: tuple[float, Interval] | None = None

    @property
    def every_rate(self) -> dict[str, float]:
        """The rates, and the parse rate as "parsed" where answers had to be parsed."""
        parsed = {} if self.parse_rate is None else {"parsed": self.parse_rate}
        return {**parsed, **self.rates}

    @property
    def by_measure(self) -> dict[str, tuple[statistics.ArmSummary, Interval]]:
        """Summary and interval by each measure, the share first."""
        return {"share": (self.summary, self.interval), **self.measures}


@dataclasses.dataclass(frozen=True)
class ContrastFinding:
    """A contrast with its estimate, the sentence that states it, and the verdicts on what was expected of it.

    `evals` has more than one entry for a mean of contrasts on different evals; `gains` is there for equal levels.
    `p_holm` is the p-value corrected for the number of contrasts of the report, NaN where there is none. `planned` says
    whether the contrast was asked for before there were results.
    """

    evals: tuple[str, ...]
    arms: tuple[str, ...]
    terms: Mapping[str, float]
    measure: str
    estimate: statistics.Contrast
    gains: equal_level.Gains | None
    sentence: str
    expected: str
    verdicts: tuple[Verdict, ...]
    planned: bool = True
    p_holm: float = math.nan


@dataclasses.dataclass(frozen=True)
class LevelFinding:
    """The level of an arm on an eval that is a gate or of which something was expected; a gate may have no verdicts."""

    name: str
    eval: str
    arm: str
    mean: float
    interval: Interval
    expected: str
    verdicts: tuple[Verdict, ...]


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that the report shows."""

    results: results_lib.Results
    arms: Mapping[str, Mapping[str, ArmFinding]]
    contrasts: Mapping[str, ContrastFinding]
    levels: tuple[LevelFinding, ...]
    grids: Mapping[str, grids.Grid]
    reasons: Mapping[str, Mapping[str, reasons.Rates]]
    warnings: tuple[str, ...]


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
    contrasts = _corrected({name: _contrast(checked, name) for name in checked.contrasts})
    levels = tuple(_levels(checked, arms))
    warnings = tuple(dict.fromkeys([*_warnings(checked, arms, contrasts, levels), *checked.warnings]))
    return Findings(checked, arms, contrasts, levels, grids.of(checked), reasons.of(checked), warnings)


def _arm(scores: results_lib.Scores, shared: bool) -> ArmFinding:
    ran_SN = scores.values_SN[scores.ran_S]
    share = float(np.isfinite(ran_SN).mean()) if len(ran_SN) else 1.0
    parse_rate = scores.parse_rate if scores.parse_rate is not None else share if share < 1 else None
    found = {
        name: (statistics.summarise(values), statistics.interval95(values, scores.labels, name))
        for name in ("share", *scores.measures)
        for values in [scores.measured(name)]
    }
    act = None
    if scores.acts:
        acts_SN = scores.measured("act")
        act = statistics.summarise(acts_SN).mean, statistics.interval95(acts_SN, scores.labels)
    return ArmFinding(*found.pop("share"), parse_rate, shared, found, scores.rates, act)


def _corrected(contrasts: Mapping[str, ContrastFinding]) -> dict[str, ContrastFinding]:
    """Returns the contrasts with p-values that are corrected for their number."""
    corrected = statistics.holm([finding.estimate.p_value for finding in contrasts.values()])
    return {
        name: dataclasses.replace(finding, p_holm=p_value)
        for (name, finding), p_value in zip(contrasts.items(), corrected, strict=True)
    }


def _contrast(checked: results_lib.Results, name: str) -> ContrastFinding:
    spec, members = checked.contrasts[name], asked.members_of(name, checked.contrasts)
    scores = [
        {arm: checked.arms[arm][member.eval].measured(member.measure) for arm in member.arms()} for member in members
    ]
    labels = [checked.arms[member.arms()[0]][member.eval].labels for member in members]
    gains = None
    measure = asked.measure_of(name, checked.contrasts)
    families = [member.equal_level for member in members if member.equal_level]
    if families:
        compared = [equal_level.Member(*each) for each in zip(families, scores, labels, strict=True)]
        estimate, gains = equal_level.contrast(compared, measure)
    elif spec.terms:
        estimate = statistics.contrast(scores[0], spec.terms, labels[0], measure)
    else:
        parts = [
            (member.eval, statistics.part(scored, member.terms, own, measure))
            for member, scored, own in zip(members, scores, labels, strict=True)
        ]
        estimate = statistics.estimate(*statistics.mean_parts(parts))
    expectation = checked.expectations.get(name, asked.Expectation())
    evals = tuple(dict.fromkeys(member.eval for member in members))
    return ContrastFinding(
        evals=evals,
        arms=tuple(dict.fromkeys(arm for member in members for arm in member.arms())),
        terms=spec.terms,
        measure=measure,
        estimate=estimate,
        gains=gains,
        sentence=sentences.of_contrast(spec, " and ".join(evals), measure, estimate, gains),
        expected=expectation.sentence,
        verdicts=tuple(_verdicts(estimate, expectation, measure)),
        planned=name not in checked.added,
    )


def _verdicts(estimate: statistics.Contrast, expected: asked.Expectation, measure: str) -> Iterator[Verdict]:
    if math.isfinite(estimate.diff):
        yield from verdicts.of_estimate(estimate.diff, estimate.ci95, expected, measure, estimate.spread)
    elif expected != asked.Expectation(sentence=expected.sentence):
        yield Verdict("open", "not measurable" if estimate.n_seeds else "nothing was scored")


def _levels(checked: results_lib.Results, arms: Mapping[str, Mapping[str, ArmFinding]]) -> Iterator[LevelFinding]:
    names = [*checked.gates, *(name for name in checked.expectations if name not in checked.contrasts)]
    for name in dict.fromkeys(names):
        expectation = checked.expectations.get(name, asked.Expectation())
        on = expectation.eval or name
        scored = [arm for arm in arms if on in arms[arm]]
        chosen = (
            [expectation.arm] if expectation.arm else [arm for arm in scored if arms[arm][on].shared] or scored
        )
        for arm in chosen:
            found = arms[arm][on]
            held = tuple(verdicts.bounds(found.summary.mean, expectation, "share", "%"))
            yield LevelFinding(name, on, arm, found.summary.mean, found.interval, expectation.sentence, held)


@dataclasses.dataclass(frozen=True)
class Expected:
    """One thing that was expected, with what was found: of a contrast, or of an arm's level, whose `arm` is not ""."""

    name: str
    eval: str
    arm: str
    measure: str
    value: float
    ci95: tuple[float, float]
    sentence: str
    verdicts: tuple[Verdict, ...]
    planned: bool = True


def expected(findings: Findings) -> list[Expected]:
    """Returns what was expected: of levels first, then of contrasts, each in the order of the results."""
    rows = [
        Expected(v.name, v.eval, v.arm, "share", v.mean, (v.interval.low, v.interval.high), v.expected, v.verdicts)
        for v in findings.levels
    ]
    for name, c in findings.contrasts.items():
        on, found = ", ".join(c.evals), c.estimate
        rows.append(Expected(name, on, "", c.measure, found.diff, found.ci95, c.expected, c.verdicts, c.planned))
    return [row for row in rows if row.verdicts]


def _warnings(
    checked: results_lib.Results,
    arms: Mapping[str, Mapping[str, ArmFinding]],
    contrasts: Mapping[str, ContrastFinding],
    levels: tuple[LevelFinding, ...],
) -> Iterator[str]:
    for level in levels:
        for verdict in level.verdicts:
            if verdict.status != "met":
                share = f"{points(level.mean)} %" if math.isfinite(level.mean) else "not measured"
                reading = "; read no arm before it passes" if level.eval in checked.gates else ""
                yield f"{level.eval} of {level.arm} is {share}, {verdict.text}{reading}."
    if len(checked.seeds) == 1:
        yield "One seed: intervals show the spread over items alone, not over training runs."
    for phase, cost in checked.cost.items():
        steps = cost.optimizer_steps / max(1, cost.runs)
        if phase in checked.midtraining and steps < MIN_MIDTRAINING_STEPS and not _all_met(contrasts):
            few = f"under {MIN_MIDTRAINING_STEPS} midtraining may not take hold"
            yield f"{phase} took {steps:g} optimizer steps per run; {few}."
    for name in checked.evals():
        rated = {arm: arms[arm][name].every_rate for arm in arms if name in arms[arm]}
        yield from rates.warnings(name, rated)
    yield from grids.flat(checked)
    yield from _token_warnings(checked)
    for name, contrast in contrasts.items():
        if contrast.terms and contrast.measure == "share":
            at = {arm: arms[arm][contrast.evals[0]].summary.mean for arm in contrast.terms}
            if capped := limits.warning(name, contrast.terms, at):
                yield capped
        if contrast.gains and contrast.estimate.n_seeds and not math.isfinite(contrast.estimate.diff):
            yield f"{name}: {contrast.estimate.method}."
        elif not math.isfinite(contrast.estimate.diff):
            yield f"{name}: no item of {' and '.join(contrast.evals)} has a score in every arm."
        elif contrast.estimate.n_seeds < _runs(contrast, arms):
            used = f"{contrast.estimate.n_seeds} of {len(checked.seeds)} seeds"
            yield f"{name} rests on {used}; the others lack a score in some arm."
        for verdict in contrast.verdicts:
            if verdict.status != "met" and math.isfinite(contrast.estimate.diff):
                low, high = (amount(bound, contrast.measure) for bound in contrast.estimate.ci95)
                value = amount(contrast.estimate.diff, contrast.measure, signed=True)
                estimate = f"{value} {unit(contrast.measure)}, interval {low} to {high}"
                yield f"{name} ({estimate}): {verdict.text}."


def _all_met(contrasts: Mapping[str, ContrastFinding]) -> bool:
    """Tells whether something was expected of the contrasts and all of it is there, so that midtraining took hold."""
    verdicts = [verdict for contrast in contrasts.values() for verdict in contrast.verdicts]
    return bool(verdicts) and all(verdict.status == "met" for verdict in verdicts)


def _runs(contrast: ContrastFinding, arms: Mapping[str, Mapping[str, ArmFinding]]) -> int:
    """Returns how many seeds the contrast would have if no score were missing: 1 if all its arms are shared."""
    scored = [arms[arm][name] for arm in contrast.arms for name in contrast.evals if name in arms[arm]]
    return max(len(found.summary.per_seed) for found in scored)


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
