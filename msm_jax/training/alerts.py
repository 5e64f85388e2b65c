"""Values far above the recent ones: the loss and the seconds of single steps.

A value is unusual if it exceeds the median of the values before it by more than a bound: the largest of a multiple of
their spread (the median absolute deviation times 1.4826, which is the standard deviation of normal values), a share of
the median, and an absolute excess. Median and spread are of the last WINDOW values, and of at least LEAST_VALUES, so
that a single outlier moves neither, and the first steps raise no alert. A stretch of unusual values is one alert; if it
lasts, the window becomes used to it.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

WINDOW = 100
LEAST_VALUES = 20


@dataclass(frozen=True)
class Bound:
    """By how much a value may exceed the median: `deviations` times the spread, `share` of the median, or `excess`."""

    deviations: float
    share: float
    excess: float


# Undisturbed runs of the small world raise 2 alerts in 517 thousand steps at 12 deviations, 59 at 10 and 260 at 8; a
# batch that is damaged, or a learning rate that is too high, exceeds 12 by far.
LOSS = Bound(deviations=12, share=0, excess=0.05)
# A step of three times the usual duration; less than a second more is not worth a line.
SECONDS = Bound(deviations=10, share=2, excess=1.0)


class Alarm:
    """Compares each value of a series with those before it.

    Attributes:
        usual: the median of the values before the last one; None while there are too few.
        count: the alerts so far.
    """

    def __init__(self, bound: Bound, before: Iterable[float] = (), count: int = 0) -> None:
        """Starts with the values `before`, of which `count` were alerts; so it goes on where it was interrupted."""
        self.usual: float | None = None
        self.count = count
        self._bound = bound
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._was_unusual = [self._is_unusual(value) for value in before][-1:] == [True]

    def rings(self, value: float) -> bool:
        """Adds a value; returns whether it is unusual while the one before was not."""
        before = self._was_unusual
        self._was_unusual = self._is_unusual(value)
        rings = self._was_unusual and not before
        self.count += rings
        return rings

    def _is_unusual(self, value: float) -> bool:
        values, bound = self._values, self._bound
        unusual = False
        if len(values) >= LEAST_VALUES:
            self.usual = statistics.median(values)
            spread = 1.4826 * statistics.median(abs(each - self.usual) for each in values)
            allowed = max(bound.deviations * spread, bound.share * abs(self.usual), bound.excess)
            unusual = value - self.usual > allowed
        values.append(value)
        return unusual
