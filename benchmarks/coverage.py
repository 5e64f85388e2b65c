"""Coverage of the 95 % intervals of `analysis.statistics` by simulation, with known effects: `make coverage`.

Each cell draws scores of two arms over seeds and items many times, and counts how often the interval contains the true
value. What a model does varies with the seed of its training, the item, the item's cluster and its options; each answer
is then 0 or 1 with the probability that follows. Effects on probabilities are additive and symmetric, so that the truth
is exact; shares near 1 are beta-distributed over clusters and items instead, with the mean that is the truth.
"""

import dataclasses
import math
import os
import platform
from collections.abc import Callable, Iterator

import numpy as np
from absl import app, flags
from numpy.typing import NDArray

from msm_jax.analysis import statistics
from msm_jax.analysis.dependence import Labels

Floats = NDArray[np.float64]
_TRIALS = flags.DEFINE_integer("trials", 2_000, "Draws of each cell.")
EFFECT = 0.1
# Standard deviations over seeds of an arm's level, and over items of the difference of arms.
SEED_SD, ITEM_SD = 0.04, 0.1


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting: its name, how scores are drawn, the labels of the items, the contrast, and its true value."""

    name: str
    draw: Callable[[np.random.Generator], dict[str, Floats]]
    labels: Labels
    terms: dict[str, float]
    truth: float

    def covered(self, trials: int, seed: int = 0) -> tuple[float, float]:
        """Returns the share of intervals that contain the truth, and the median of their lengths."""
        rng = np.random.default_rng(seed)
        inside, lengths = 0, []
        for _ in range(trials):
            part = statistics.part(self.draw(rng), self.terms, self.labels)
            low, high = statistics.estimate(part, test=False).ci95
            inside += low <= self.truth <= high
            lengths.append(high - low)
        return inside / trials, float(np.median(lengths))


def uniform(rng: np.random.Generator, deviation: float, shape: tuple[int, ...]) -> Floats:
    """Returns draws with mean 0 and a standard deviation, bounded so that probabilities stay possible."""
    return rng.uniform(-1, 1, shape) * math.sqrt(3) * deviation


def answers(rng: np.random.Generator, n_seeds: int, effects_N: Floats, seed_sd: float) -> dict[str, Floats]:
    """Returns the answers of two arms around .5, whose probabilities differ by `effects_N` on each item."""
    found = {}
    base = 0.5 + rng.uniform(-0.05, 0.05, effects_N.shape)
    for arm, sign in (("a", 0.5), ("b", -0.5)):
        chance = base + sign * effects_N + uniform(rng, seed_sd, (n_seeds, 1))
        found[arm] = (rng.random((n_seeds, effects_N.size)) < chance).astype(np.float64)
    return found


DIFFERENCE = {"a": 1.0, "b": -1.0}


def clustered(n_seeds: int, icc: float, seed_sd: float = SEED_SD, clusters: int = 10, size: int = 16) -> Cell:
    """Returns a cell whose items fall into clusters, with an intraclass correlation of differences of single answers.

    A single difference of two answers has a variance of about .5, apart from what items bring.
    """
    number = clusters * size
    deviation = math.sqrt(icc / (1 - icc) * (0.5 + ITEM_SD**2))

    def draw(rng: np.random.Generator) -> dict[str, Floats]:
        of_clusters = np.repeat(rng.choice([-1.0, 1.0], clusters) * deviation, size)
        return answers(rng, n_seeds, EFFECT + of_clusters + uniform(rng, ITEM_SD, (number,)), seed_sd)

    labels = tuple((f"cluster: {c}",) for c in range(clusters) for _ in range(size))
    return Cell(f"{clusters} clusters of {size}, ICC {icc:g}, seeds' SD {seed_sd:g}", draw, labels, DIFFERENCE, EFFECT)


def independent(n_seeds: int, seed_sd: float = SEED_SD, number: int = 160) -> Cell:
    """Returns a cell of independent items."""

    def draw(rng: np.random.Generator) -> dict[str, Floats]:
        return answers(rng, n_seeds, EFFECT + uniform(rng, ITEM_SD, (number,)), seed_sd)

    return Cell(f"{number} items, seeds' SD {seed_sd:g}", draw, (), DIFFERENCE, EFFECT)


def sharing(n_seeds: int, options: int, deviation: float = 0.13, number: int = 160) -> Cell:
    """Returns a cell of pairs of options, each in 2 · `number` / `options` pairs, with an effect of each option."""
    rng = np.random.default_rng(options)
    first, second = np.tile(np.arange(options), number // options), np.zeros(number, int)
    for start in range(0, number, options):
        second[start : start + options] = np.roll(np.arange(options), 1 + start // options)[rng.permutation(options)]
    second = np.where(second == first, (second + 1) % options, second)

    def draw(rng: np.random.Generator) -> dict[str, Floats]:
        of = uniform(rng, deviation, (options,))
        return answers(rng, n_seeds, EFFECT + of[first] + of[second] + uniform(rng, ITEM_SD, (number,)), SEED_SD)

    labels = tuple((f"option: {a}", f"option: {b}") for a, b in zip(first, second, strict=True))
    return Cell(f"{number} pairs of {options} options", draw, labels, DIFFERENCE, EFFECT)


def share(n_seeds: int, level: float, icc: float, clusters: int = 10, size: int = 16) -> Cell:
    """Returns a cell with the share of one arm, beta-distributed over clusters (by `icc`) and over items."""

    def beta(rng: np.random.Generator, mean: Floats, correlation: float) -> Floats:
        total = 1 / correlation - 1
        mean = np.clip(mean, 1e-9, 1 - 1e-9)
        return rng.beta(mean * total, (1 - mean) * total)

    def draw(rng: np.random.Generator) -> dict[str, Floats]:
        of_clusters = np.full(clusters, level)
        chance = beta(rng, np.repeat(beta(rng, of_clusters, icc) if icc else of_clusters, size), 0.1)
        return {"a": (rng.random((n_seeds, clusters * size)) < chance).astype(np.float64)}

    labels = tuple((f"cluster: {c}",) for c in range(clusters) for _ in range(size)) if icc else ()
    return Cell(f"share {level:g}, ICC {icc:g}" if icc else f"share {level:g}, items", draw, labels, {"a": 1.0}, level)


def cells() -> Iterator[list[Cell]]:
    """Yields the rows of the table: a setting with 2, 3, 4, 6 and 10 seeds."""
    settings: list[Callable[[int], Cell]] = [
        lambda n: independent(n, 0.0),
        lambda n: independent(n),
        lambda n: independent(n, 0.11),
        lambda n: clustered(n, 0.0),
        lambda n: clustered(n, 0.1),
        lambda n: clustered(n, 0.3),
        lambda n: clustered(n, 0.1, 0.11),
        lambda n: sharing(n, 16),
        lambda n: sharing(n, 80),
        lambda n: share(n, 0.7, 0.0),
        lambda n: share(n, 0.7, 0.1),
        lambda n: share(n, 0.7, 0.3),
        lambda n: share(n, 0.9, 0.1),
        lambda n: share(n, 0.9, 0.3),
        lambda n: share(n, 0.98, 0.0),
        lambda n: share(n, 0.98, 0.1),
        lambda n: share(n, 0.98, 0.3),
    ]
    for setting in settings:
        yield [setting(n_seeds) for n_seeds in SEEDS]


SEEDS = (2, 3, 4, 6, 10)


def machine() -> str:
    """Returns the machine in words; `record.machine` would start JAX, which nothing here needs."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"


def main(_: list[str]) -> None:
    """Prints a row for each setting."""
    print("| setting | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |")
    print("|---" * (1 + len(SEEDS)) + "|")
    for row in cells():
        found = [f"{100 * cell.covered(_TRIALS.value)[0]:.1f}" for cell in row]
        print(f"| {row[0].name} | {' | '.join(found)} |", flush=True)
    error = 100 * math.sqrt(0.95 * 0.05 / _TRIALS.value)
    print(f"\nCoverage in %; {_TRIALS.value:,} draws each, standard error {error:.1f}; {machine()}")


if __name__ == "__main__":
    app.run(main)
