"""Gains compared at equal levels: does one kind of midtraining make demonstrations add more than another does?

Arms whose midtraining has moved them further have less room and another place to go on from, so gains are compared
between arms that stood at the same level before, as in appendix C.4 of the Model Spec Midtraining paper. Each of two
families holds several doses, and each dose has a level before the demonstrations and a gain, after minus before. Within
a family, the gain is a function of the level: straight lines between neighbouring levels. The contrast is the mean of
the first family's gain minus that of the second, over the levels that both families cover. This rule is fixed, whatever
the levels turn out to be. Nothing is extrapolated: where the families share no level, the contrast is not measurable.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from msm_jax.analysis import intervals, statistics
from msm_jax.analysis.asked import EqualLevel
from msm_jax.analysis.dependence import Labels
from msm_jax.analysis.intervals import Range, Spread
from msm_jax.analysis.statistics import Contrast, Floats, Part

DRAWS = 1_000
_CHUNK = 500
# By how much levels are moved to see how fast the difference changes with each.
_STEP = 1e-5


@dataclasses.dataclass(frozen=True)
class Gains:
    """What was compared, as means over the evals of a mean: NaN where the families share no level.

    Attributes:
      level: the lowest and the highest level that both families cover.
      more: the mean gain of the first family over these levels.
      less: that of the second family.
      levels: the level before of each dose, in each family, for each eval.
    """

    level: tuple[float, float]
    more: float
    less: float
    levels: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Member:
    """One eval: the families, the scores of their arms (`[seeds, items]` or `[1, items]`), the labels of its items."""

    families: EqualLevel
    scores: Mapping[str, Floats]
    labels: Labels = ()


def contrast(
    members: Sequence[Member], measure: str = "share", *, draws: int = DRAWS, seed: int = 0
) -> tuple[Contrast, Gains]:
    """Estimates the difference of gains at equal levels, or the mean of several such differences on different evals.

    The difference depends on the level of each arm, and near the levels that were measured it changes with each of them
    at a fixed rate. Interval and p-value are those of the sum of the arms with these rates as weights (the delta
    method), like those of other contrasts. Seeds and items are also drawn anew, with interpolation in each draw: where
    fewer than 95 % of the draws have levels in common, there is no interval, and the contrast counts as not measurable.

    Args:
        members: the evals.
        measure: "share", "probability" or "nats".
        draws: of seeds and items.
        seed: of the draws.
    """
    stacked = [_stack(member.families, member.scores) for member in members]
    n_seeds = max(array.shape[1] for array in stacked)
    stacked = [np.broadcast_to(array, (array.shape[0], n_seeds, array.shape[2])) for array in stacked]
    seen_S = np.all([np.isfinite(array[0]).any(axis=1) for array in stacked], axis=0)
    stacked = [array[:, seen_S] for array in stacked]
    n_items = sum(int(np.isfinite(array[0]).any(axis=0).sum()) for array in stacked)
    if not seen_S.any():
        nothing = Gains((math.nan, math.nan), math.nan, math.nan, ())
        return _unmeasured("nothing was scored", 0, 0), nothing
    n_seeds = int(seen_S.sum())
    means = [statistics.item_means(array).mean(axis=1) for array in stacked]
    exact = _gains(members, [mean[None] for mean in means])
    gains = Gains(
        (float(exact.low[0]), float(exact.high[0])), float(exact.more[0]), float(exact.less[0]),
        tuple(
            (tuple(before[: len(member.families.more)]), tuple(before[len(member.families.more) :]))
            for member, mean in zip(members, means, strict=True)
            for before in [mean[::2].tolist()]
        ),
    )  # fmt: skip
    value = float(exact.more[0] - exact.less[0])
    if not math.isfinite(value):
        return _unmeasured("not measurable: the families share no level", n_seeds, n_items), gains
    shared = np.isfinite(_redrawn(members, stacked, draws, seed)).mean()
    if shared < intervals.CONFIDENCE:
        few = f"not measurable: the families share a level in only {shared:.0%} of {draws} draws"
        return _unmeasured(few, n_seeds, n_items), gains
    parts = [
        _linear(member, array, rates, len(members), measure)
        for member, array, rates in zip(members, stacked, _rates(members, means), strict=True)
    ]
    linear = statistics.estimate(*parts)
    low, high = intervals.bounds(value, linear.spread, linear.within, 1 - intervals.CONFIDENCE)
    found = dataclasses.replace(
        linear,
        diff=value,
        ci95=(low, high),
        p_value=intervals.p_value(value, linear.spread, linear.within),
        method=f"delta method, {linear.method}",
        per_seed=tuple(each - linear.diff + value for each in linear.per_seed),
    )
    return found, gains


def _unmeasured(why: str, n_seeds: int, n_items: int) -> Contrast:
    nan, spread = math.nan, Spread(n_seeds, math.nan)
    return Contrast(nan, (nan, nan), nan, why, n_seeds, n_items, (nan,) * n_seeds, spread, Range())


def _stack(families: EqualLevel, scores: Mapping[str, Floats]) -> Floats:
    """Returns the arms before and after in turn, `[2 · doses, seeds, items]`; NaN in all where one has no score."""
    arms = [arm for pair in (*families.more, *families.less) for arm in pair]
    array = np.stack(np.broadcast_arrays(*(scores[arm] for arm in arms)))
    return np.where(np.isfinite(array).all(axis=0), array, np.nan)


def _rates(members: Sequence[Member], means: Sequence[Floats]) -> list[Floats]:
    """Returns how fast the difference changes with the mean of each arm of each eval, by central differences."""
    rates = []
    for index, mean in enumerate(means):
        moved = np.concatenate([np.eye(len(mean)), -np.eye(len(mean))]) * _STEP + mean
        others = [np.broadcast_to(other, (len(moved), len(other))) for other in means]
        found = _gains(members, [moved if i == index else other for i, other in enumerate(others)])
        up, down = np.split(found.more - found.less, 2)
        # Where a step leaves the families no level in common, the step to the other side tells the rate alone.
        here = _gains(members, [other[None] for other in means])
        centre = float(here.more[0] - here.less[0])
        steps = np.isfinite(up).astype(np.float64) + np.isfinite(down)
        up, down = (np.where(np.isfinite(side), side, centre) for side in (up, down))
        rates.append((up - down) / (np.maximum(steps, 1) * _STEP))
    return rates


def _linear(member: Member, array: Floats, rates: Floats, count: int, measure: str) -> Part:
    """Returns the sum of the arms by their rates; of shares it lies within ± 2, as a difference of two differences."""
    within = Range()
    if measure != "nats":
        floor = sum(rate**2 * statistics.least_variance(arm) for rate, arm in zip(rates, array, strict=True))
        within = Range(-2 / count, 2 / count, float(floor))
    return Part(np.tensordot(rates, array, axes=1), member.labels, within)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """The lowest and highest shared level, and the two mean gains, `[draws]` each; NaN where no level is shared."""

    low: Floats
    high: Floats
    more: Floats
    less: Floats


def _redrawn(members: Sequence[Member], stacked: Sequence[Floats], draws: int, seed: int) -> Floats:
    """Returns the difference in draws of seeds, and of the items of each eval, with replacement, `[draws]`."""
    rng = np.random.default_rng(seed)
    n_seeds = stacked[0].shape[1]
    parts = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        seeds_bS = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), count).astype(np.float64)
        means = []
        for array in stacked:
            n_items = array.shape[2]
            items_bN = rng.multinomial(n_items, np.full(n_items, 1 / n_items), count).astype(np.float64)
            means.append(np.stack([_drawn_mean(arm_SN, seeds_bS, items_bN) for arm_SN in array], axis=1))
        found = _gains(members, means)
        parts.append(found.more - found.less)
    return np.concatenate(parts)


def _drawn_mean(values_SN: Floats, seeds_bS: Floats, items_bN: Floats) -> Floats:
    """Returns the mean over drawn seeds of the means over drawn items, `[draws]`, without NaN entries."""
    present_SN = np.isfinite(values_SN)
    # einsum: so thin a BLAS product only starts threads, and its sums depend on their number.
    number_bS = np.einsum("bn,sn->bs", items_bN, present_SN.astype(np.float64))
    sum_bS = np.einsum("bn,sn->bs", items_bN, np.where(present_SN, values_SN, 0.0))
    weights_bS = seeds_bS * (number_bS > 0)
    total_b = weights_bS.sum(axis=1)
    sum_b = (weights_bS * sum_bS / np.maximum(number_bS, 1)).sum(axis=1)
    return np.where(total_b > 0, sum_b / np.where(total_b > 0, total_b, 1.0), np.nan)


def _gains(members: Sequence[Member], means: Sequence[Floats]) -> _Drawn:
    """Returns the mean over evals of levels and gains, given the means of their arms, `[draws, arms]` each."""
    found = [_compare(len(member.families.more), mean) for member, mean in zip(members, means, strict=True)]
    low, high, more, less = np.mean([(f.low, f.high, f.more, f.less) for f in found], axis=0)
    return _Drawn(low, high, more, less)


def _compare(n_more: int, means_bA: Floats) -> _Drawn:
    """Returns the shared levels and mean gains on one eval; the first `n_more` pairs of arms are the first family."""
    before_bD, after_bD = means_bA[:, ::2], means_bA[:, 1::2]
    gain_bD = after_bD - before_bD
    levels = before_bD[:, :n_more], before_bD[:, n_more:]
    low = np.maximum(levels[0].min(axis=1), levels[1].min(axis=1))
    high = np.minimum(levels[0].max(axis=1), levels[1].max(axis=1))
    shared = low <= high
    more, less = (
        np.where(shared, mean_gain(level, gain, low, high), np.nan)
        for level, gain in zip(levels, (gain_bD[:, :n_more], gain_bD[:, n_more:]), strict=True)
    )
    return _Drawn(low, high, more, less)


def mean_gain(level_bD: Floats, gain_bD: Floats, low_b: Floats, high_b: Floats) -> Floats:
    """Returns the mean from `low` to `high` of the straight lines through (level, gain), in each of b draws.

    Where `low` equals `high`, it is the value there. Both lie within the levels.
    """
    order = np.argsort(level_bD, axis=1, kind="stable")
    level, gain = np.take_along_axis(level_bD, order, 1), np.take_along_axis(gain_bD, order, 1)
    low, high = low_b[:, None], high_b[:, None]
    begin, end = np.clip(level[:, :-1], low, high), np.clip(level[:, 1:], low, high)
    span = np.diff(level, axis=1)
    slope = np.divide(np.diff(gain, axis=1), span, out=np.zeros_like(span), where=span > 0)
    middle = gain[:, :-1] + slope * ((begin + end) / 2 - level[:, :-1])
    width = high_b - low_b
    point = np.array([np.interp(at, x, y) for at, x, y in zip(low_b, level, gain, strict=True)])
    mean = ((end - begin) * middle).sum(axis=1) / np.where(width > 0, width, 1.0)
    return np.where(width > 1e-9, mean, point)
