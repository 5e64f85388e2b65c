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

from msm_jax.analysis import statistics
from msm_jax.analysis.asked import EqualLevel
from msm_jax.analysis.statistics import Floats

DRAWS = 4_000
_CHUNK = 1_000


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


def contrast(
    members: Sequence[tuple[EqualLevel, Mapping[str, Floats]]], *, draws: int = DRAWS, seed: int = 0
) -> tuple[statistics.Contrast, Gains]:
    """Estimates the difference of gains at equal levels, or the mean of several such differences on different evals.

    The interval is the wider of two, as for other contrasts. The bootstrap draws seeds jointly for all evals and items
    for each eval, and interpolates anew in every draw. The t interval is over the jackknife's pseudo-values of the
    seeds: n times the estimate minus n - 1 times the one without the seed, which for a plain difference is the seed's
    own difference. With one seed it is the bootstrap over items. Where fewer than 95 % of the draws have levels in
    common, there is no interval, and the contrast counts as not measurable. There is no p-value.

    Args:
        members: the families, and the scores of their arms on one eval, `[seeds, items]` or `[1, items]`.
        draws: bootstrap draws.
        seed: of the resampling.
    """
    stacked = [_stack(families, scores) for families, scores in members]
    n_seeds = max(array.shape[1] for array in stacked)
    stacked = [np.broadcast_to(array, (array.shape[0], n_seeds, array.shape[2])) for array in stacked]
    seen_S = np.all([np.isfinite(array[0]).any(axis=1) for array in stacked], axis=0)
    stacked = [array[:, seen_S] for array in stacked]
    n_seeds = int(seen_S.sum())
    n_items = sum(int(np.isfinite(array[0]).any(axis=0).sum()) for array in stacked)
    if n_seeds == 0:
        nothing = Gains((math.nan, math.nan), math.nan, math.nan, ())
        return _result(math.nan, statistics.Interval(math.nan, math.nan, "nothing was scored"), np.zeros(0), 0), nothing
    # One row of weights for all seeds, and one for all but each of them.
    weights = np.concatenate([np.ones((1, n_seeds)), 1 - np.eye(n_seeds)])
    every = [np.ones((len(weights), array.shape[2]), np.uint16) for array in stacked]
    exact = _gains(members, stacked, weights, every)
    gains = Gains(
        (float(exact.low[0]), float(exact.high[0])), float(exact.more[0]), float(exact.less[0]),
        tuple(
            (tuple(levels[: len(families.more)].tolist()), tuple(levels[len(families.more) :].tolist()))
            for (families, _), array in zip(members, stacked, strict=True)
            for levels in [np.nanmean(np.nanmean(array[::2], axis=2), axis=1)]
        ),
    )  # fmt: skip
    difference = exact.more - exact.less
    value = float(difference[0])
    drawn = _bootstrap(members, stacked, draws, seed)
    shared = np.isfinite(drawn).mean()
    if not math.isfinite(value) or shared < statistics.CONFIDENCE:
        where = "share no level" if not math.isfinite(value) else f"share a level in only {shared:.0%} of {draws} draws"
        interval = statistics.Interval(math.nan, math.nan, f"not measurable: the families {where}")
        return _result(math.nan, interval, np.full(n_seeds, math.nan), n_items), gains
    low, high = statistics.percentiles(drawn[np.isfinite(drawn)])
    items = "items" if len(members) == 1 else f"items of each of {len(members)} evals"
    pseudo = n_seeds * value - (n_seeds - 1) * difference[1:]
    method = f"bootstrap over seeds, then {items}, interpolated anew in each of {draws} draws"
    if n_seeds == 1 or not np.isfinite(pseudo).all():
        return _result(value, statistics.Interval(low, high, method), np.full(n_seeds, value), n_items), gains
    pseudo = pseudo - pseudo.mean() + value
    return _result(value, statistics.wider(pseudo, low, high, method), pseudo, n_items), gains


def _result(value: float, interval: statistics.Interval, per_seed: Floats, n_items: int) -> statistics.Contrast:
    return statistics.Contrast(
        diff=value,
        ci95=(interval.low, interval.high),
        p_value=math.nan,
        method=interval.method,
        n_seeds=len(per_seed),
        n_items=n_items,
        per_seed=tuple(per_seed.tolist()),
        differences=(per_seed[:, None],),
    )


def _stack(families: EqualLevel, scores: Mapping[str, Floats]) -> Floats:
    """Returns the arms before and after in turn, `[2 · doses, seeds, items]`; NaN in all where one has no score."""
    arms = [arm for pair in (*families.more, *families.less) for arm in pair]
    array = np.stack(np.broadcast_arrays(*(scores[arm] for arm in arms)))
    return np.where(np.isfinite(array).all(axis=0), array, np.nan)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """The lowest and highest shared level, and the two mean gains, `[draws]` each; NaN where no level is shared."""

    low: Floats
    high: Floats
    more: Floats
    less: Floats


def _bootstrap(
    members: Sequence[tuple[EqualLevel, Mapping[str, Floats]]], stacked: Sequence[Floats], draws: int, seed: int
) -> Floats:
    seeds_BS = statistics.resample_counts(stacked[0].shape[1], draws, seed, 1)
    items = [statistics.resample_counts(array.shape[2], draws, seed, 2 + 2 * i) for i, array in enumerate(stacked)]
    parts = []
    for start in range(0, draws, _CHUNK):
        rows = slice(start, start + _CHUNK)
        found = _gains(members, stacked, seeds_BS[rows].astype(np.float64), [counts[rows] for counts in items])
        parts.append(found.more - found.less)
    return np.concatenate(parts)


def _gains(
    members: Sequence[tuple[EqualLevel, Mapping[str, Floats]]],
    stacked: Sequence[Floats],
    seeds_bS: Floats,
    items: Sequence[np.ndarray],
) -> _Drawn:
    found = [
        _compare(len(families.more), array, seeds_bS, counts_bN)
        for (families, _), array, counts_bN in zip(members, stacked, items, strict=True)
    ]
    low, high, more, less = np.mean([(f.low, f.high, f.more, f.less) for f in found], axis=0)
    return _Drawn(low, high, more, less)


def _compare(n_more: int, array: Floats, seeds_bS: Floats, counts_bN: np.ndarray) -> _Drawn:
    """Returns the shared levels and mean gains on one eval; the first `n_more` pairs of arms are the first family."""
    means = []
    for arm_SN in array:
        per_seed_bS = statistics.weighted_means(arm_SN, counts_bN)
        weights_bS = seeds_bS * np.isfinite(per_seed_bS)
        total_b = weights_bS.sum(axis=1)
        sum_b = (weights_bS * np.nan_to_num(per_seed_bS)).sum(axis=1)
        means.append(np.where(total_b > 0, sum_b / np.where(total_b > 0, total_b, 1.0), np.nan))
    before_bD, after_bD = np.stack(means[::2], axis=1), np.stack(means[1::2], axis=1)
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
