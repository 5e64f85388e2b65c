"""The mixture of sources: which source each row of the global stream of rows comes from, and which of its rows.

Row g of the stream (g = step * batch_rows + place in the batch) is a pure function of the weights, stages and seed.
Within a stage the choice repeats after `_PERIOD` rows. Each source has its share of a period, to the nearest row, and
its rows are spread evenly over it, so every batch has nearly the shares that the weights give. At the start of a stage
each source continues with the row after its last one.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from msm_jax.foundation import hashing

_PERIOD = 1 << 14


@dataclasses.dataclass(frozen=True)
class _Stage:
    start_row: int  # in the global stream
    base: np.ndarray  # [sources] rows drawn before the stage
    per_period: np.ndarray  # [sources]
    source: np.ndarray  # [_PERIOD] the source of each row of a period
    index: np.ndarray  # [_PERIOD] how many rows of that source come before it in the period
    before: np.ndarray  # [sources, _PERIOD + 1] rows of each source before each row of a period

    def drawn(self, row: int) -> np.ndarray:
        periods, rest = divmod(row - self.start_row, _PERIOD)
        return self.base + periods * self.per_period + self.before[:, rest]


class Mixture:
    """The choice of sources. A source's number is its place in `names`."""

    def __init__(
        self,
        names: Sequence[str],
        stages: Sequence[tuple[int, Mapping[str, float]]],
        batch_rows: int,
        seed: int,
    ):
        """Plans one period of each stage.

        Args:
          names: the sources.
          stages: (first step, weights by name) pairs, the first at step 0, as `DataConfig` checks them.
          batch_rows: rows of a global batch.
          seed: decides the order of the sources within a period.
        """
        self._stages: list[_Stage] = []
        shifts = [np.random.default_rng([seed, *words(name), 2]).random() for name in names]
        for step, weights in stages:
            start_row = step * batch_rows
            base = self._stages[-1].drawn(start_row) if self._stages else np.zeros(len(names), np.int64)
            per_period = _shares(np.array([weights.get(name, 0.0) for name in names], np.float64))
            when = np.concatenate(
                [(np.arange(n) + s) / n for n, s in zip(per_period, shifts, strict=True) if n]
            )
            order = np.argsort(when, kind="stable")
            source = np.repeat(np.arange(len(names)), per_period)[order]
            index = np.concatenate([np.arange(n) for n in per_period])[order]
            chosen = source == np.arange(len(names))[:, None]
            before = np.concatenate([np.zeros((len(names), 1), np.int64), np.cumsum(chosen, axis=1)], axis=1)
            self._stages.append(_Stage(start_row, base, per_period, source, index, before))

    def select(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the sources of global rows [start, stop) and the number of each row within its repeated source.

        Both are int64 `[stop - start]`.
        """
        stage = self._stage(start)
        row = np.arange(start, stop) - stage.start_row
        source = stage.source[row % _PERIOD]
        return source, stage.base[source] + row // _PERIOD * stage.per_period[source] + stage.index[
            row % _PERIOD
        ]

    def drawn(self, row: int) -> np.ndarray:
        """Returns how many rows of each source come before global row `row`: int64 `[sources]`."""
        return self._stage(row).drawn(row)

    def _stage(self, row: int) -> _Stage:
        return next(stage for stage in reversed(self._stages) if stage.start_row <= row)


def words(name: str) -> list[int]:
    """Returns a name as 4 integers for a seed, so that a source's draws depend on its name, not on other sources."""
    digest = bytes.fromhex(hashing.sha256(name.encode()))
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]


def _shares(weights: np.ndarray) -> np.ndarray:
    """Splits `_PERIOD` rows by weight, by largest remainder; a source with a weight above 0 gets at least one."""
    exact = weights / weights.sum() * _PERIOD
    counts = np.where(weights > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    missing = _PERIOD - counts.sum()
    by_remainder = np.argsort(counts - exact, kind="stable")
    if missing > 0:
        counts[by_remainder[:missing]] += 1
    else:
        counts[np.argmax(counts)] += missing
    return counts
