"""How large a difference must be to be seen with a number of seeds and items, and how many seeds would be enough."""

import math

from msm_jax.analysis import intervals
from msm_jax.analysis.intervals import Spread

POWER = 0.8
_MOST_SEEDS = 1_000


def detectable(spread: Spread, tests: int = 1) -> float:
    """Returns the true difference whose 95 % interval leaves out 0 in 80 % of repetitions; NaN where nothing is known.

    Where the difference is one of several `tests`, whose p-values are corrected for their number, the interval is that
    of the corrected level (Bonferroni's, which Holm's method applies to the smallest p-value). The difference is the
    half-width of the interval and that of the 60 % interval together, as in Cohen (1988, "Statistical power analysis
    for the behavioral sciences", chapter 2) with t in place of normal quantiles.
    """
    if not spread.known:
        return math.nan
    return math.sqrt(spread.square((1 - intervals.CONFIDENCE) / tests)) + math.sqrt(spread.square(2 * (1 - POWER)))


def seeds_to_resolve(spread: Spread, half_width: float) -> int | None:
    """Returns how many seeds would narrow the interval to `half_width`, if seeds and items keep varying as they do.

    The variance that seeds bring falls with their number, that of the items does not: None where one seed shows no
    spread, or where no number of seeds up to 1,000 is enough and more items would be needed.
    """
    if spread.n_seeds < 2 or half_width <= 0:
        return None
    for seeds in range(spread.n_seeds + 1, _MOST_SEEDS + 1):
        if math.sqrt(spread.with_seeds(seeds).square(1 - intervals.CONFIDENCE)) <= half_width:
            return seeds
    return None


def planned(
    n_seeds: int, n_items: int, n_clusters: int, deviations: tuple[float, float, float], icc: float
) -> Spread:
    """Returns the spread that a difference would have over seeds and items that have not been run yet.

    Args:
        n_seeds: the number of seeds.
        n_items: the number of items, in clusters of equal size.
        n_clusters: the number of clusters; 0 where the items are independent.
        deviations: the standard deviations of a single difference: of seeds, of items, and of what neither says.
        icc: the share of the items' variance that items of one cluster have in common.
    """
    of_seeds, of_items, of_both = (deviation**2 for deviation in deviations)
    groups = n_clusters if n_clusters > 1 else n_items
    inflation = 1 + (n_items / groups - 1) * icc
    both = of_both / (n_items * n_seeds)
    return Spread(
        n_seeds,
        of_seeds / n_seeds + both if n_seeds > 1 else 0.0,
        of_items * inflation / n_items + both,
        both if n_seeds > 1 else 0.0,
        groups - 1,
        n_items,
    )
