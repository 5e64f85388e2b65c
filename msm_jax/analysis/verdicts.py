"""Whether what was expected holds: of an estimate with its interval, over seeds or over the worlds of a sweep."""

import dataclasses
import math
from collections.abc import Iterator

from msm_jax.analysis import power
from msm_jax.analysis.asked import Expectation, SweepExpectation
from msm_jax.analysis.intervals import Spread
from msm_jax.analysis.sentences import amount, unit


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether something expected holds: `status` is "met", "failed" or "open" (not resolved), and `text` says why."""

    status: str
    text: str


def worst(verdicts: tuple[Verdict, ...]) -> str:
    """Returns "failed" if one of the verdicts is, else "open" if one is, else "met"."""
    return min((verdict.status for verdict in verdicts), key=("failed", "open", "met").index)


def bounds(value: float, expected: Expectation | SweepExpectation, measure: str, of: str) -> Iterator[Verdict]:
    """Yields whether a value is at least `min` and at most `max`, in the unit `of`; NaN is neither."""
    if expected.min is not None:
        least = f"{amount(expected.min, measure)} {of}"
        yield Verdict("met", f"at least {least}") if value >= expected.min else Verdict("failed", f"below {least}")
    if expected.max is not None:
        most = f"{amount(expected.max, measure)} {of}"
        yield Verdict("met", f"at most {most}") if value <= expected.max else Verdict("failed", f"above {most}")


def of_estimate(
    value: float,
    ci95: tuple[float, float],
    expected: Expectation | SweepExpectation,
    measure: str,
    spread: Spread,
    of: str = "seed",
) -> Iterator[Verdict]:
    """Yields a verdict for each condition on an estimate other than NaN.

    Args:
        value: the estimate.
        ci95: its interval; NaN where one unit alone gives none.
        expected: the conditions.
        measure: of the estimate.
        spread: of the estimate, which says how many units would resolve what is open.
        of: the word for a unit.
    """
    yield from bounds(value, expected, measure, unit(measure))
    if expected.above_zero and not math.isfinite(ci95[0]):
        yield Verdict("open", f"one {of} gives no interval")
    elif expected.above_zero:
        yield Verdict("met", "interval above 0") if ci95[0] > 0 else Verdict("failed", "interval not above 0")
    if expected.inside is not None:
        yield _inside(value, ci95, expected.inside, measure, spread, of)


def _inside(
    value: float,
    ci95: tuple[float, float],
    limit: float,
    measure: str,
    spread: Spread,
    of: str,
) -> Verdict:
    low, high = ci95
    bound = f"±{amount(limit, measure)} {unit(measure)}"
    if -limit < low and high < limit:
        return Verdict("met", f"inside {bound}")
    if math.isfinite(low) and not low <= 0 <= high:
        return Verdict("failed", f"outside {bound}")
    # An estimate within the limit resolves when its interval fits inside, any other when it leaves 0.
    distance = abs(value)
    number = power.seeds_to_resolve(spread, half_width=limit - distance if distance < limit else distance)
    if number is not None:
        return Verdict("open", f"not resolved within {bound}: {number} {of}s would")
    if spread.n_seeds < 2:
        return Verdict("open", f"not resolved within {bound}: one {of} does not show how many would")
    return Verdict("open", f"not resolved within {bound}: more {of}s alone would not, more items are needed")
