"""Arm summaries and contrasts between arms, from scores per seed and item.

Scores are float arrays `[seeds, items]`, shares and probabilities in [0, 1] or margins in nats, NaN where a reply could
not be parsed. The items are the same, in the same order, in every seed and arm that a contrast names, so arms are
compared within a seed and within an item. An arm with one run that all seeds share has shape `[1, items]`.

A contrast on several evals is a sum of parts, one for each eval, all with the same seeds: each seed's value is the sum
of the parts' means over their own items. How intervals and p-values are made is in `intervals`, and what items share in
`dependence`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from msm_jax.analysis import dependence, intervals
from msm_jax.analysis.dependence import Labels
from msm_jax.analysis.intervals import Interval, Range, Spread
from msm_jax.errors import InputError

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """One arm on one eval.

    `mean` over seeds of the mean over items; `sem` over seeds, or over items where there is one seed;
    `n_items` asked; `per_seed` means in the order of the seeds, NaN for a seed without a score; `parse_rate`
    is the share of replies with a score.
    """

    mean: float
    sem: float
    n_items: int
    per_seed: tuple[float, ...]
    parse_rate: float


@dataclasses.dataclass(frozen=True)
class Part:
    """What a contrast is on one eval: `values_SN` per seed and item, the labels of its items, and what it may be."""

    values_SN: Floats
    labels: Labels = ()
    within: Range = dataclasses.field(default_factory=Range)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The estimate of a contrast: `diff`, its 95 % interval and p-value, and the counts behind them.

    `per_seed` holds the differences of the `n_seeds` seeds used; `n_items` counts the items with a score in every arm
    in at least one seed; `spread` and `within` are what the interval follows from. `effect` is the size of the effect
    without a unit, and `effect_of` says which one: "h" or "d", see `effect_size`.
    """

    diff: float
    ci95: tuple[float, float]
    p_value: float
    method: str
    n_seeds: int
    n_items: int
    per_seed: tuple[float, ...]
    spread: Spread
    within: Range
    effect: float = math.nan
    effect_of: str = ""


def summarise(scores_SN: Floats) -> ArmSummary:
    """Returns mean, standard error and parse rate of one arm's scores `[seeds, items]`.

    A seed whose scores are all NaN counts in the parse rate alone.
    """
    scores_SN = _checked("arm", scores_SN)
    per_seed = item_means(scores_SN)
    seen = np.isfinite(per_seed)
    if not seen.any():
        mean = sem = math.nan
    elif seen.sum() == 1:
        items = scores_SN[seen][0]
        items = items[np.isfinite(items)]
        mean = float(items.mean())
        sem = float(items.std(ddof=1) / math.sqrt(items.size)) if items.size > 1 else math.nan
    else:
        mean = float(per_seed[seen].mean())
        sem = float(per_seed[seen].std(ddof=1) / math.sqrt(seen.sum()))
    parse_rate = float(np.isfinite(scores_SN).mean())
    return ArmSummary(mean, sem, scores_SN.shape[1], tuple(per_seed.tolist()), parse_rate)


def interval95(scores_SN: Floats, labels: Labels = (), measure: str = "share") -> Interval:
    """Returns the 95 % interval of the mean over seeds of the mean over items of one arm's scores `[seeds, items]`.

    Args:
        scores_SN: the scores.
        labels: of each item; none where all are independent.
        measure: "share" or "probability", whose interval is in [0, 1], or "nats".
    """
    found = estimate(part({"arm": scores_SN}, {"arm": 1.0}, labels, measure), test=False)
    return Interval(*found.ci95, found.method)


def paired_differences(scores: Mapping[str, Floats], terms: Mapping[str, float]) -> Floats:
    """Returns the combination of `terms` per seed and item, `[seeds, items]`; NaN where an arm has no score.

    Raises:
        InputError: an arm is missing, no arm is named, or the arms differ in seeds or items.
    """
    if not terms:
        raise InputError("contrast: no terms; name at least one arm with its coefficient")
    arrays = {}
    for arm in terms:
        if arm not in scores:
            raise InputError(
                f"contrast: arm {arm!r} has no scores; the arms are {', '.join(scores) or 'none'}"
            )
        arrays[arm] = _checked(arm, scores[arm])
    shapes = {arm: array.shape for arm, array in arrays.items()}
    seeds = {shape[0] for shape in shapes.values()} - {1}
    if len(seeds) > 1 or len({shape[1] for shape in shapes.values()}) > 1:
        raise InputError(
            f"contrast: arms differ in [seeds, items]: {shapes}; score the same items in every arm"
        )
    total = np.zeros((max(seeds, default=1), next(iter(shapes.values()))[1]))
    for arm, coefficient in terms.items():
        total = total + float(coefficient) * arrays[arm]
    return total


def part(
    scores: Mapping[str, Floats], terms: Mapping[str, float], labels: Labels = (), measure: str = "share"
) -> Part:
    """Returns `sum(coefficient * arm)` on one eval as a part of a contrast.

    Raises:
        InputError: see `paired_differences`.
    """
    values_SN = paired_differences(scores, terms)
    if measure == "nats":
        return Part(values_SN, labels)
    weights = np.array(list(terms.values()), float)
    floor = sum(weight**2 * least_variance(scores[arm]) for arm, weight in terms.items())
    return Part(values_SN, labels, Range(float(weights[weights < 0].sum()), float(weights[weights > 0].sum()), floor))


def least_variance(scores_SN: Floats) -> float:
    """Returns the least variance that the mean of shares of N items is taken to have, 1 / (2 N²).

    It is that of half an item of each kind among N, which Agresti and Min (2005, "Simple improved confidence intervals
    for comparing matched proportions", Statistics in Medicine 24) add to the cells of a table. Scores between 0 and 1,
    whose spread says more, count in proportion.
    """
    seen = scores_SN[np.isfinite(scores_SN)]
    if not seen.size:
        return 0.0
    return float(((seen == 0) | (seen == 1)).mean()) / (2 * scores_SN.shape[1] ** 2)


def contrast(
    scores: Mapping[str, Floats], terms: Mapping[str, float], labels: Labels = (), measure: str = "share"
) -> Contrast:
    """Estimates `sum(coefficient * arm)` on one eval, paired by seed and item.

    Args:
        scores: arm to `[seeds, items]`, or `[1, items]` for a run that all seeds share.
        terms: arm to coefficient.
        labels: of each item: its cluster and options. Items that share one are not independent.
        measure: "share", "probability" or "nats", of which the last has no least or largest value.

    Items that any arm failed to answer in a seed are left out of that seed, seeds without an item left are
    left out altogether; with nothing left every number is NaN.

    Raises:
        InputError: see `paired_differences`.
    """
    found = estimate(part(scores, terms, labels, measure))
    effect, of = effect_size(scores, terms, measure)
    return dataclasses.replace(found, effect=effect, effect_of=of)


def effect_size(scores: Mapping[str, Floats], terms: Mapping[str, float], measure: str) -> tuple[float, str]:
    """Returns the size of an effect without a unit, and which one it is.

    "h" is Cohen's (1988, "Statistical power analysis for the behavioral sciences", chapter 6) for the difference of two
    shares or probabilities, 2 asin √p − 2 asin √q: .2 is called small, .5 medium and .8 large. "d", of all other
    contrasts, is the estimate by the standard deviation over items of their means over seeds (Cohen's d_z); NaN where
    the items do not differ.
    """
    if measure != "nats" and sorted(terms.values()) == [-1, 1]:
        means = {weight: summarise(scores[arm]).mean for arm, weight in terms.items()}
        up, down = (2 * math.asin(math.sqrt(min(1.0, max(0.0, means[sign])))) for sign in (1, -1))
        return up - down, "h"
    of_items = item_means(paired_differences(scores, terms).T)
    of_items = of_items[np.isfinite(of_items)]
    deviation = float(of_items.std(ddof=1)) if of_items.size > 1 else 0.0
    return (float(of_items.mean()) / deviation if deviation > 0 else math.nan), "d"


def mean_parts(members: Sequence[tuple[str, Part]]) -> list[Part]:
    """Returns the parts of the mean of several contrasts, one for each eval.

    Args:
        members: the eval of each contrast, and what it is there. Contrasts on one eval are summed item by item.

    Raises:
        InputError: two contrasts on one eval have other items, or two contrasts have other seeds.
    """
    evals = {name: [each for eval_name, each in members if eval_name == name] for name, _ in members}
    seeds = {each.values_SN.shape[0] for _, each in members} - {1}
    for name, parts in evals.items():
        if len(seeds) > 1 or len({each.values_SN.shape[1] for each in parts}) > 1:
            shapes = [each.values_SN.shape for each in parts]
            raise InputError(f"mean of contrasts: those on {name} differ in [seeds, items]: {shapes}; score the same")
    count = len(members)
    return [
        Part(
            np.asarray(sum(each.values_SN / count for each in parts)),
            parts[0].labels,
            Range(
                sum(each.within.low for each in parts) / count,
                sum(each.within.high for each in parts) / count,
                sum(each.within.floor for each in parts) / count**2,
            ),
        )
        for parts in evals.values()
    ]


def estimate(*parts: Part, test: bool = True) -> Contrast:
    """Estimates the mean over seeds of the sum of the parts' means over items; see `contrast` for the rest.

    Args:
        parts: on one eval each, `[seeds, items]`, or `[1, items]` for a part that is the same in all seeds.
        test: whether to compute the p-value.
    """
    within = Range(*(sum(getattr(each.within, field) for each in parts) for field in ("low", "high", "floor")))
    kept, labels = _complete(parts)
    if not kept:
        spread = Spread(0, 0.0)
        return Contrast(math.nan, (math.nan, math.nan), math.nan, "nothing was scored", 0, 0, (), spread, within)
    per_seed = np.asarray(sum(item_means(values) for values in kept))
    value = float(per_seed.mean())
    spread = intervals.spread(kept, dependence.of(labels))
    found = intervals.interval(value, spread, within)
    return Contrast(
        diff=value,
        ci95=(found.low, found.high),
        p_value=intervals.p_value(value, spread, within) if test else math.nan,
        method=found.method,
        n_seeds=len(per_seed),
        n_items=spread.n_items,
        per_seed=tuple(per_seed.tolist()),
        spread=spread,
        within=within,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, so that one below .05 among all of them is as rare as .05.

    This is Holm's (1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
    6): the k-th smallest of m is multiplied by m − k + 1, and none falls below the one before. It holds however the
    tests depend on each other. NaN entries count for nothing.
    """
    values = np.asarray(p_values, float)
    corrected = np.full(len(values), math.nan)
    order = [int(i) for i in np.argsort(values) if np.isfinite(values[i])]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return [float(value) for value in corrected]


def item_means(values_SN: Floats) -> Floats:
    """Returns means over the last axis without its NaN entries; NaN where nothing is left."""
    present_SN = np.isfinite(values_SN)
    number_S = present_SN.sum(axis=-1)
    total_S = np.where(present_SN, values_SN, 0.0).sum(axis=-1)
    return np.where(number_S > 0, total_S / np.maximum(number_S, 1), np.nan)


def _checked(arm: str, scores_SN: Floats) -> Floats:
    array = np.asarray(scores_SN, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"scores of {arm!r} have shape {array.shape}; [seeds, items] with at least one of each is needed"
        )
    return array


def _complete(parts: Sequence[Part]) -> tuple[list[Floats], tuple[Labels, ...]]:
    """Returns the values of each part in the seeds that have a score in every part, and the labels of its items.

    Items without a score are left out. With no such seed there are no parts.
    """
    n_seeds = max(each.values_SN.shape[0] for each in parts)
    arrays = [np.broadcast_to(each.values_SN, (n_seeds, each.values_SN.shape[1])) for each in parts]
    seen_S = np.all([np.isfinite(array).any(axis=1) for array in arrays], axis=0)
    if not seen_S.any():
        return [], ()
    kept, labels = [], []
    for each, array in zip(parts, arrays, strict=True):
        seen_N = np.asarray(np.isfinite(array[seen_S]).any(axis=0))
        kept.append(array[np.ix_(seen_S, seen_N)])
        own: Labels = each.labels or ((),) * len(seen_N)
        labels.append(tuple(item for item, seen in zip(own, seen_N, strict=True) if seen))
    return kept, tuple(labels)
