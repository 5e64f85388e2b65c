"""Numbers and contrasts in words, as the report, the terminal and the warnings show them."""

import math
from collections.abc import Mapping

from msm_jax.analysis.asked import ContrastSpec
from msm_jax.analysis.equal_level import Gains
from msm_jax.analysis.statistics import Contrast

MINUS = "\u2212"


def points(value: float, signed: bool = False) -> str:
    """Returns a share or a difference in percentage points, "−12" or with `signed` "+48"; "n/a" for NaN."""
    return _number(100 * value, 0, signed)


def amount(value: float, measure: str, signed: bool = False) -> str:
    """Returns a level or a difference in the unit of its measure: `points`, or nats with two decimals."""
    return _number(value, 2, signed) if measure == "nats" else points(value, signed)


def unit(measure: str) -> str:
    """Returns the unit of a difference in a measure: "points" for shares and probabilities, or "nats"."""
    return "nats" if measure == "nats" else "points"


def _number(value: float, decimals: int, signed: bool) -> str:
    if not math.isfinite(value):
        return "n/a"
    rounded = round(value, decimals)
    sign = MINUS if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}{abs(rounded):.{decimals}f}"


def p_text(p_value: float | None) -> str:
    """Returns a p-value as text, "0.03", "0.004" or "<0.0001", near .05 "0.048"; "n/a" where there is none."""
    if p_value is None or not math.isfinite(p_value):
        return "n/a"
    if p_value < 1e-4:
        return "<0.0001"
    return f"{p_value:.1g}" if p_value < 0.01 else f"{p_value:.3f}" if 0.045 <= p_value < 0.055 else f"{p_value:.2f}"


def effect_text(effect: float | None, of: str | None) -> str:
    """Returns an effect size with its letter, "h +0.48"; "" where there is none."""
    if effect is None or not of or not math.isfinite(effect):
        return ""
    return f"{of} {effect:+.2f}".replace("-", MINUS)


def seeds_text(n: int) -> str:
    """Returns the number of seeds in words, "1 seed" or "3 seeds"."""
    return "1 seed" if n == 1 else f"{n} seeds"


def combination(terms: Mapping[str, float]) -> str:
    """Returns the terms as a formula, "a − b + 2·c"."""
    parts: list[str] = []
    for arm, coefficient in terms.items():
        sign = MINUS if coefficient < 0 else "+" if parts else ""
        factor = "" if abs(coefficient) == 1 else f"{abs(coefficient):g}·"
        parts.append(f"{sign} {factor}{arm}" if parts else f"{sign}{factor}{arm}")
    return " ".join(parts)


def of_contrast(spec: ContrastSpec, evals: str, measure: str, estimate: Contrast, gains: Gains | None) -> str:
    """Returns the sentence that states a contrast with its interval; `evals` names the evals that it is on."""
    if not math.isfinite(estimate.diff):
        if gains is not None and estimate.n_seeds:
            return f"On {evals}, gains at equal levels cannot be compared: {_levels(gains, measure)}."
        return f"No item of {evals} has a score in every arm, so nothing can be said."
    low, high = estimate.ci95
    zero = "; it includes 0" if low <= 0 <= high else ""
    of_what = "95 % interval of the difference" if estimate.diff < 0 else "95 % interval"
    bounds = f"{of_what} {amount(low, measure)} to {amount(high, measure)}{zero}"
    return f"{_claim(spec, evals, measure, estimate, gains)} ({bounds}), {seeds_text(estimate.n_seeds)}."


def _claim(spec: ContrastSpec, evals: str, measure: str, estimate: Contrast, gains: Gains | None) -> str:
    size, more = amount(abs(estimate.diff), measure), estimate.diff >= 0
    fields = {"points": size, "amount": f"{size} {unit(measure)}", "direction": "more" if more else "less"}
    if gains is not None:
        fields |= {
            "level": _range(gains.level, measure),
            "more": amount(gains.more, measure, signed=True),
            "less": amount(gains.less, measure, signed=True),
        }
    if spec.sentence:
        return spec.sentence.format(**fields).rstrip(". ")
    signed = f"{amount(estimate.diff, measure, signed=True)} {unit(measure)}"
    where = f"On {evals}" + (", in probability" if measure == "probability" else "")
    if gains is not None:
        gained = f"the first doses gain {fields['more']} and the second {fields['less']} {unit(measure)}"
        return f"{where}, at equal levels before ({fields['level']}), {gained}, a difference of {signed}"
    if spec.mean_of:
        return f"{where}, the mean of {' and '.join(spec.mean_of)} is {signed}"
    upper, lower = ([arm for arm, weight in spec.terms.items() if weight == sign] for sign in (1, -1))
    if len(upper) == len(lower) == 1 and len(spec.terms) == 2:
        if float(size) == 0:
            return f"{where}, {upper[0]} and {lower[0]} score the same to within {_least(measure)}"
        return f"{where}, {upper[0]} scores {fields['amount']} {'higher' if more else 'lower'} than {lower[0]}"
    if len(upper) == len(lower) == 2 and len(spec.terms) == 4:
        size_of = f"{fields['amount']} {'larger' if more else 'smaller'}"
        first, second = f"{upper[0]} {MINUS} {lower[0]}", f"{lower[1]} {MINUS} {upper[1]}"
        return f"{where}, the difference {first} is {size_of} than {second}"
    return f"{where}, {combination(spec.terms)} comes to {signed}"


def _least(measure: str) -> str:
    """Returns the difference below which `amount` shows 0."""
    return "0.005 nats" if measure == "nats" else "half a point"


def _range(level: tuple[float, float], measure: str) -> str:
    """Returns a range of levels in words, "55 to 72 %" or "1.20 nats" where both ends are the same."""
    low, high = (amount(bound, measure) for bound in level)
    return f"{low if low == high else f'{low} to {high}'} {'nats' if measure == 'nats' else '%'}"


def _levels(gains: Gains, measure: str) -> str:
    """Returns the levels of both families in words."""
    return "; ".join(
        " and ".join(f"{name} are at {_range((min(levels), max(levels)), measure)}"
                     for name, levels in (("the first doses", more), ("the second", less)))
        for more, less in gains.levels
    )  # fmt: skip
