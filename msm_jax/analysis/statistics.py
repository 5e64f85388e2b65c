"""Arm summaries and contrasts between arms, from scores per seed and item.

Scores are float arrays `[seeds, items]`, shares and probabilities in [0, 1] or margins in nats, NaN where a reply could
not be parsed. The items are the same, in the same order, in every seed and arm that a contrast names, so arms are
compared within a seed and within an item. An arm with one run that all seeds share has shape `[1, items]`.

A contrast on several evals is a sum of parts, one array per eval, all with the same seeds: each seed's value is the sum
of the parts' means over their own items. Seeds are drawn jointly for all parts, items for each part by itself.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from msm_jax.errors import InputError

DRAWS = 10_000
FLIPS = 10_000
CONFIDENCE = 0.95
_CHUNK = 1_000
P_VALUE_METHOD = "p: sign flip over items of the seed-averaged difference"

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval: `low`, `high` (NaN where nothing could be scored) and the `method` that gave it."""

    low: float
    high: float
    method: str


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
class Contrast:
    """The estimate of a contrast: `diff`, its 95 % interval and p-value, and the counts behind them.

    `per_seed` holds the differences of the `n_seeds` seeds used; `n_items` counts the items with a score in every arm
    in at least one seed; `differences` are the parts themselves, each an array `[n_seeds, items]`.
    """

    diff: float
    ci95: tuple[float, float]
    p_value: float
    method: str
    n_seeds: int
    n_items: int
    per_seed: tuple[float, ...]
    differences: tuple[Floats, ...] = dataclasses.field(repr=False, compare=False)


def summarise(scores_SN: Floats) -> ArmSummary:
    """Returns mean, standard error and parse rate of one arm's scores `[seeds, items]`.

    A seed whose scores are all NaN counts in the parse rate alone.
    """
    scores_SN = _checked("arm", scores_SN)
    per_seed = _item_means(scores_SN)
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


def contrast(
    scores: Mapping[str, Floats],
    terms: Mapping[str, float],
    *,
    draws: int = DRAWS,
    flips: int = FLIPS,
    seed: int = 0,
) -> Contrast:
    """Estimates `sum(coefficient * arm)` on one eval, paired by seed and item.

    Args:
        scores: arm to `[seeds, items]`, or `[1, items]` for a run that all seeds share.
        terms: arm to coefficient.
        draws: bootstrap draws.
        flips: random sign flips for the p-value.
        seed: of the resampling; the same inputs give the same numbers.

    Items that any arm failed to answer in a seed are left out of that seed, seeds without an item left are
    left out altogether; with nothing left every number is NaN.

    Raises:
        InputError: see `paired_differences`.
    """
    return estimate(paired_differences(scores, terms), draws=draws, flips=flips, seed=seed)


def mean_parts(members: Sequence[tuple[str, Floats]]) -> list[Floats]:
    """Returns the parts of the mean of several contrasts, one for each eval.

    Args:
        members: the eval of each contrast and its differences `[seeds, items]`, as `paired_differences` returns them.
            Contrasts on one eval are summed item by item, so that their items are drawn together.

    Raises:
        InputError: two contrasts on one eval have other items, or two contrasts have other seeds.
    """
    evals = {name: [values for eval_name, values in members if eval_name == name] for name, _ in members}
    seeds = {values.shape[0] for _, values in members} - {1}
    for name, arrays in evals.items():
        if len(seeds) > 1 or len({values.shape[1] for values in arrays}) > 1:
            shapes = [values.shape for values in arrays]
            raise InputError(f"mean of contrasts: those on {name} differ in [seeds, items]: {shapes}; score the same")
    return [np.asarray(sum(values / len(members) for values in arrays)) for arrays in evals.values()]


def estimate(*parts_SN: Floats, draws: int = DRAWS, flips: int = FLIPS, seed: int = 0) -> Contrast:
    """Estimates the mean over seeds of the sum of the parts' means over items; see `contrast` for the rest.

    Args:
        parts_SN: `[seeds, items]` each, or `[1, items]` for a part that is the same in all seeds.
        draws: bootstrap draws.
        flips: random sign flips for the p-value.
        seed: of the resampling.
    """
    parts = _complete(parts_SN)
    per_seed = _seed_values(parts)
    interval = interval95(*parts, draws=draws, seed=seed)
    return Contrast(
        diff=float(per_seed.mean()) if len(per_seed) else math.nan,
        ci95=(interval.low, interval.high),
        p_value=sign_flip_p_value(*parts, flips=flips, seed=seed),
        method=f"{interval.method}; {P_VALUE_METHOD} ({flips} flips)",
        n_seeds=len(per_seed),
        n_items=sum(int(np.isfinite(part).any(axis=0).sum()) for part in parts if len(part)),
        per_seed=tuple(per_seed.tolist()),
        differences=tuple(parts),
    )


def interval95(*parts_SN: Floats, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Returns the 95 % interval of the mean over seeds of the mean over items of `[seeds, items]`.

    With several seeds it is the wider of the hierarchical bootstrap and the t interval over per-seed means:
    few seeds make the first too narrow, and the second does not see that other items could have been asked.
    With one seed it is the bootstrap over items. Several parts are summed; see the module's docstring.
    """
    parts = _complete(parts_SN)
    per_seed = _seed_values(parts)
    n_seeds = len(per_seed)
    if n_seeds == 0:
        return Interval(math.nan, math.nan, "nothing was scored")
    low, high = percentiles(bootstrap_means(*parts, draws=draws, seed=seed))
    items = "items" if len(parts) == 1 else f"items of each of {len(parts)} evals"
    if n_seeds == 1:
        return Interval(low, high, f"bootstrap over {items}, one seed ({draws} draws)")
    return wider(per_seed, low, high, f"hierarchical bootstrap over seeds, then {items} ({draws} draws)")


def percentiles(values: Floats) -> tuple[float, float]:
    """Returns the ends of the middle 95 % of the values."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail]).tolist()
    return low, high


def wider(per_seed: Floats, low: float, high: float, bootstrap: str) -> Interval:
    """Returns the wider of a bootstrap interval and the t interval over two or more per-seed values.

    `bootstrap` says in words how the first was drawn.
    """
    n_seeds = len(per_seed)
    center, half = float(per_seed.mean()), t_half_width(float(per_seed.std(ddof=1)), n_seeds)
    if 2 * half > high - low:
        return Interval(
            center - half,
            center + half,
            f"t interval over {n_seeds} per-seed values, wider than the {bootstrap}",
        )
    return Interval(low, high, f"{bootstrap}, wider than the t interval over {n_seeds} per-seed values")


def t_half_width(deviation: float, n_seeds: int) -> float:
    """Returns the half-width of the 95 % t interval over `n_seeds` >= 2 values with standard deviation `deviation`."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n_seeds - 1)) * deviation / math.sqrt(n_seeds)


def bootstrap_means(*parts_SN: Floats, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Returns means under resampling, `[draws]`: each draw takes seeds, then items, with replacement.

    The drawn items are the same in all seeds of a draw, as the items that were asked are, and the drawn seeds are the
    same in all parts. NaN entries are left out of their seed's mean; a seed whose drawn items are all NaN in a part is
    left out of the draw.
    """
    n_seeds = parts_SN[0].shape[0]
    seed_counts_BS = resample_counts(n_seeds, draws, seed, 1)
    means = np.empty(draws)
    for start in range(0, draws, _CHUNK):
        rows = slice(start, min(start + _CHUNK, draws))
        seeds_bS = seed_counts_BS[rows].astype(np.float64)
        total_bS = np.zeros_like(seeds_bS)
        for index, part_SN in enumerate(parts_SN):
            counts_BN = resample_counts(part_SN.shape[1], draws, seed, 2 + 2 * index)
            total_bS += weighted_means(part_SN, counts_BN[rows])
        seen_bS = np.isfinite(total_bS)
        seeds_bS = seeds_bS * seen_bS
        number_b = seeds_bS.sum(axis=1)
        with np.errstate(invalid="ignore"):
            sum_b = (seeds_bS * np.where(seen_bS, total_bS, 0.0)).sum(axis=1)
            means[rows] = np.where(number_b > 0, sum_b / number_b, np.nan)
    return means[np.isfinite(means)]


def weighted_means(values_SN: Floats, counts_bN: NDArray[np.uint16]) -> Floats:
    """Returns the means over items of `[seeds, items]`, each item counted as often as a draw says, `[draws, seeds]`.

    NaN entries are left out; a mean of none is NaN.
    """
    present_SN = np.isfinite(values_SN)
    items_bN = counts_bN.astype(np.float64)
    # einsum: so thin a BLAS product only starts threads, and its sums depend on their number.
    number_bS = np.einsum("bn,sn->bs", items_bN, present_SN.astype(np.float64))
    sum_bS = np.einsum("bn,sn->bs", items_bN, np.where(present_SN, values_SN, 0.0))
    return np.where(number_bS > 0, sum_bS / np.where(number_bS > 0, number_bS, 1.0), np.nan)


def sign_flip_p_value(*parts_SN: Floats, flips: int = FLIPS, seed: int = 0) -> float:
    """Returns a two-sided p-value, `(1 + k) / (1 + flips)`; NaN without an item.

    The null hypothesis is that the seed-averaged difference of each item could as well have the other sign. `k` counts
    the random flips of signs whose mean (or sum of the parts' means) is at least as far from 0. The spread over seeds
    does not enter; the interval shows it.
    """
    items: list[Floats] = []
    for part_SN in parts_SN:
        seen_N = np.isfinite(part_SN).any(axis=0) if part_SN.size else np.zeros(0, bool)
        if not seen_N.any():
            return math.nan
        items.append(_item_means(part_SN[:, seen_N].T) / int(seen_N.sum()))
    weighted = np.concatenate(items)
    observed = abs(float(weighted.sum()))
    signs_FN = _random_signs(weighted.size, flips, seed)
    # Sums that are equal in exact arithmetic may differ in the last bits; ties count as extreme.
    threshold = observed - 1e-9 * max(1.0, observed)
    extreme = 0
    for start in range(0, flips, _CHUNK):
        flipped = np.einsum("fn,n->f", signs_FN[start : start + _CHUNK].astype(np.float64), weighted)
        extreme += int((np.abs(flipped) >= threshold).sum())
    return (1 + extreme) / (1 + flips)


def seeds_to_resolve(*differences_SN: Floats, half_width: float, limit: int = 1_000) -> int | None:
    """Returns how many seeds would narrow the interval to `half_width`, if seeds and items keep varying as they do.

    The variance of per-seed differences falls with the seeds, that of the items does not: None where one seed
    shows no spread, or where no number of seeds up to `limit` is enough and more items would be needed.

    Args:
        differences_SN: the parts, `[seeds, items]` each, as in `Contrast.differences`.
        half_width: wanted, above 0.
        limit: the largest number of seeds tried.
    """
    parts = _complete(differences_SN)
    per_seed = _seed_values(parts)
    if len(per_seed) < 2 or half_width <= 0:
        return None
    deviation = float(per_seed.std(ddof=1))
    item_variance = sum(_item_variance(part) for part in parts)
    normal = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    for seeds in range(len(per_seed) + 1, limit + 1):
        bootstrap = normal * math.sqrt(deviation**2 / seeds + item_variance)
        if max(t_half_width(deviation, seeds), bootstrap) <= half_width:
            return seeds
    return None


def _item_variance(differences_SN: Floats) -> float:
    """Returns the variance of the mean over items that no number of seeds reduces: that of the items' main effects in a
    two-way layout."""
    complete_SN = differences_SN[:, np.isfinite(differences_SN).all(axis=0)]
    n_seeds, n_items = complete_SN.shape
    if n_items < 2:
        return 0.0
    item_means = complete_SN.mean(axis=0)
    residual_SN = complete_SN - item_means - complete_SN.mean(axis=1, keepdims=True) + complete_SN.mean()
    interaction = float((residual_SN**2).sum()) / ((n_seeds - 1) * (n_items - 1))
    return max(0.0, float(item_means.var(ddof=1)) - interaction / n_seeds) / n_items


def _checked(arm: str, scores_SN: Floats) -> Floats:
    array = np.asarray(scores_SN, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"scores of {arm!r} have shape {array.shape}; [seeds, items] with at least one of each is needed"
        )
    return array


def _complete(parts_SN: Sequence[Floats]) -> list[Floats]:
    """Returns the parts with the same seeds each: those that have a score in every part."""
    n_seeds = max(part.shape[0] for part in parts_SN)
    parts = [np.broadcast_to(part, (n_seeds, part.shape[1])) for part in parts_SN]
    seen_S = np.all([np.isfinite(part).any(axis=1) for part in parts], axis=0)
    return [part[seen_S] for part in parts]


def _seed_values(parts_SN: Sequence[Floats]) -> Floats:
    """Returns the sum of the parts' means over items for each seed, `[seeds]`."""
    return np.asarray(sum(_item_means(part) for part in parts_SN))


def _item_means(values_SN: Floats) -> Floats:
    """Returns means over the last axis without its NaN entries; NaN where nothing is left."""
    present_SN = np.isfinite(values_SN)
    number_S = present_SN.sum(axis=-1)
    total_S = np.where(present_SN, values_SN, 0.0).sum(axis=-1)
    return np.where(number_S > 0, total_S / np.maximum(number_S, 1), np.nan)


@functools.lru_cache(maxsize=6)
def resample_counts(n: int, draws: int, seed: int, stream: int) -> NDArray[np.uint16]:
    """Returns how often each of `n` things is drawn in `n` draws with replacement, `[draws, n]`."""
    rng = np.random.default_rng([seed, stream, n])
    counts = np.empty((draws, n), np.uint16)
    for start in range(0, draws, _CHUNK):
        rows = min(_CHUNK, draws - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
    return counts


@functools.lru_cache(maxsize=2)
def _random_signs(n: int, flips: int, seed: int) -> NDArray[np.int8]:
    rng = np.random.default_rng([seed, 3, n])
    return rng.integers(0, 2, size=(flips, n), dtype=np.int8) * np.int8(2) - np.int8(1)
