"""95 % intervals and p-values of means over seeds and items, both of which are drawn from many.

The mean over seeds s and items i of scores (or differences of scores) x_si is off for three reasons: other runs would
have been trained (seeds), other items could have been asked (items), and each run does better on some items than on
others (both). Three variances are seen:

    seeds   of the mean over seeds, from the seeds' means:            σ²_seeds / S + σ²_both / (S·N)
    items   of the mean over items, from the items' means:            σ²_items / N + σ²_both / (S·N)
    both    of the mean over seeds and items, from what neither says:                σ²_both / (S·N)

written here for independent items; `dependence` says what takes the place of N where items share a topic or an
option. The variance of the mean is seeds + items − both (Cameron, Gelbach and Miller 2011, "Robust inference with
multiway clustering", JBES 29). The half-width adds the squares of the half-widths of its two parts, each with the t
quantile of its own degrees of freedom (Howe 1974, "Approximate confidence limits on the mean of X + Y", JASA 69; Zou
and Donner 2008, "Construction of confidence limits about effect measures", Statistics in Medicine 27, who call it
MOVER):

    half² = t²(S − 1) · max(seeds − (1 − λ) both, 0) + t²(df of items) · max(items − λ both, 0)

`both` is in both parts and has to be taken off one of them. λ says of which, and is 1 where the seeds' part is by far
the larger one, 0 where the items' is: the larger part then keeps what it was measured with. The rule is our own, λ =
s² / (s² + i²) with s = t²(S − 1) · seeds and i = t²(df) · items. `benchmarks/coverage.py` shows what it covers.

Shares, and their sums with weights, have a least and a largest possible value. An interval of theirs is the set of
values that the estimate does not refute by more than `half`, where the variance of a value v is that of the estimate
times v (1 − v) / (estimate (1 − estimate)), on the scale from 0 (least) to 1 (largest): Wilson's (1927, "Probable
inference", JASA 22) interval with the effective sample size of Kott and others for clustered samples (Dean and Pagano
2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys", J. Survey Stat.
Methodol. 3). It stays in the range, and far from its ends it is the interval above.

The p-value is the smallest level at which the interval with this rule leaves out 0, so it is below .05 exactly where
the 95 % interval does.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from msm_jax.analysis.dependence import Dependence, Floats

CONFIDENCE = 0.95
LEAST_P = 1e-12
# Items whose residuals cancel, such as a single one, have fewer degrees of freedom than this.
_LEAST_DF = 1e-9
# What is averaged over worlds are means over many items, none of which is drawn again.
_MANY = 1_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval: `low`, `high` (NaN where there is none) and the `method` that gave it."""

    low: float
    high: float
    method: str


@dataclasses.dataclass(frozen=True)
class Spread:
    """The variances of a mean over seeds and items; see the module's docstring.

    Attributes:
      n_seeds: S.
      seeds, items, both: the variances; with one seed, `seeds` and `both` are 0.
      df: the degrees of freedom of `items`; infinite where there are none to draw, 0 where their variance is unknown.
      n_items: the number of items.
      labels: the number of clusters and options that items share.
    """

    n_seeds: int
    seeds: float
    items: float = 0.0
    both: float = 0.0
    df: float = math.inf
    n_items: int = 0
    labels: int = 0

    @functools.cached_property
    def parts(self) -> tuple[float, float]:
        """The variances of the mean that come from seeds and from items; their sum is that of the mean."""
        if self.n_seeds < 2 or not self.n_items or self.df < _LEAST_DF:
            return self.seeds, 0.0 if self.df < _LEAST_DF else self.items
        s = t_quantile(1 - CONFIDENCE, self.n_seeds - 1) ** 2 * self.seeds
        i = t_quantile(1 - CONFIDENCE, self.df) ** 2 * self.items
        share = s**2 / (s**2 + i**2) if s + i else 0.5
        return max(self.seeds - (1 - share) * self.both, 0.0), max(self.items - share * self.both, 0.0)

    @property
    def known(self) -> bool:
        """Whether anything says how far the mean may be off: several seeds, or items that differ."""
        return self.n_seeds > 1 or self.df >= _LEAST_DF

    def square(self, level: float) -> float:
        """Returns the square of the half-width of the interval that leaves out the truth with probability `level`."""
        by_seeds, by_items = self.parts
        total = t_quantile(level, self.n_seeds - 1) ** 2 * by_seeds if self.n_seeds > 1 else 0.0
        return total + t_quantile(level, self.df) ** 2 * by_items if by_items else total

    def with_seeds(self, n_seeds: int) -> "Spread":
        """Returns the spread that another number of seeds would show if seeds and items vary as they do here."""
        by_seeds, own = max(self.seeds - self.both, 0.0) * self.n_seeds, self.both * self.n_seeds
        items = max(self.items - self.both, 0.0) + own / n_seeds
        return dataclasses.replace(
            self, n_seeds=n_seeds, seeds=(by_seeds + own) / n_seeds, items=items, both=own / n_seeds
        )


@dataclasses.dataclass(frozen=True)
class Range:
    """What an estimate may be: from `low` to `high`, infinite for nats.

    `floor` is the least variance that the estimate is taken to have, however alike the items are; see
    `statistics.least_variance`.
    """

    low: float = -math.inf
    high: float = math.inf
    floor: float = 0.0

    @property
    def bounded(self) -> bool:
        """Whether the range has ends."""
        return math.isfinite(self.high - self.low)


def spread(parts_SN: Sequence[Floats], among: Dependence) -> Spread:
    """Returns the variances of the mean over seeds of the sum of the parts' means over items.

    Args:
        parts_SN: `[seeds, items]` each, with a score in each seed; NaN where there is none.
        among: what the items of all parts share.
    """
    deviations, means = [], []
    for values_SN in parts_SN:
        present_SN = np.isfinite(values_SN)
        number_S1 = present_SN.sum(axis=1, keepdims=True)
        mean_S1 = np.where(present_SN, values_SN, 0.0).sum(axis=1, keepdims=True) / number_S1
        deviations.append(np.where(present_SN, values_SN - mean_S1, 0.0) / number_S1)
        means.append(mean_S1[:, 0])
    z_SN, mean_S = np.concatenate(deviations, axis=1), np.sum(means, axis=0)
    n_seeds, n_items = z_SN.shape
    z_N = z_SN.mean(axis=0)
    items = float(among.variance(z_N[None])[0])
    seeds = both = 0.0
    if n_seeds > 1:
        seeds = float(mean_S.var(ddof=1)) / n_seeds
        both = float(among.variance(z_SN - z_N).sum()) / (n_seeds * (n_seeds - 1))
    return Spread(n_seeds, seeds, items, both, among.df, n_items, among.labels)


@functools.lru_cache(maxsize=4096)
def t_quantile(level: float, df: float) -> float:
    """Returns the value that |t| with `df` degrees of freedom exceeds with probability `level`."""
    return -float(special.stdtrit(df, level / 2))


def interval(value: float, found: Spread, within: Range) -> Interval:
    """Returns the 95 % interval of an estimate."""
    low, high = bounds(value, found, within, 1 - CONFIDENCE)
    return Interval(low, high, method(found, within))


def bounds(value: float, found: Spread, within: Range, level: float) -> tuple[float, float]:
    """Returns the ends of the interval that leaves out a true value with probability `level`.

    Where nothing says how far the estimate may be off, as of one item of one seed, it is the whole range, or NaN.
    """
    if not found.known:
        return (within.low, within.high) if within.bounded else (math.nan, math.nan)
    if not within.bounded:
        half = math.sqrt(found.square(level))
        return value - half, value + half
    share, k = _scaled(value, found, within, level)
    centre, half = (share + k / 2) / (1 + k), math.sqrt(k * share * (1 - share) + k**2 / 4) / (1 + k)
    width = within.high - within.low
    return within.low + width * max(0.0, centre - half), within.low + width * min(1.0, centre + half)


def _scaled(value: float, found: Spread, within: Range, level: float) -> tuple[float, float]:
    """Returns the estimate on the scale of its range, from 0 to 1, and half² by share · (1 − share).

    Half an item of each kind is added to the shares, so that none is 0 or 1 here (Jeffreys).
    """
    width, items = within.high - within.low, found.n_items or _MANY
    share = min(1.0, max(0.0, (value - within.low) / width))
    inner = (items * share + 0.5) / (items + 1)
    least = t_quantile(level, found.df) ** 2 * within.floor if found.df >= _LEAST_DF else 0.0
    return share, max(found.square(level), least) / width**2 / (inner * (1 - inner))


def p_value(value: float, found: Spread, within: Range) -> float:
    """Returns the p-value of the hypothesis that the true value is 0; see the module's docstring.

    It is at least `LEAST_P`; NaN where there is no interval.
    """
    # Importing it takes longer than all p-values of a report, and most commands need none.
    from scipy import optimize

    if not found.known:
        return math.nan

    def excess(log_level: float) -> float:
        """Tells by how much the square of the distance to 0 exceeds what the level allows."""
        level = 10**log_level
        if not within.bounded:
            return value**2 - found.square(level)
        _, k = _scaled(value, found, within, level)
        return value**2 + k * within.low * within.high

    least = math.log10(LEAST_P)
    if excess(0.0) <= 0:
        return 1.0
    return LEAST_P if excess(least) >= 0 else float(10 ** optimize.brentq(excess, least, 0.0, xtol=1e-9))


def method(found: Spread, within: Range) -> str:
    """Returns in words how an interval was made."""
    if not found.known:
        return "one item of one seed says nothing of what others would"
    over = []
    if found.n_seeds > 1:
        over.append(f"{found.n_seeds} seeds")
    if found.n_items and found.df >= _LEAST_DF:
        shared = f", which share {found.labels} clusters or options" if found.labels else ""
        over.append(f"{found.n_items} items (t with {found.df:.0f} degrees of freedom{shared})")
    bounded = ", in Wilson's form" if within.bounded else ""
    return f"t interval over {' and '.join(over)}{bounded}; p at the level of the interval"
