"""Progress of a run: how much is done, how fast, what it has cost, and how long it will take."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from msm_jax.synthesis.budget import Budget

# The rate is that of the last moments, since planning and writing differ.
_WINDOW_SECONDS = 60.0
_LEAST_DONE = 20


@dataclass(frozen=True)
class Progress:
    """A moment of a run.

    Attributes:
        done: texts that are finished, written or dropped.
        planned: texts that are planned so far.
        calls: replies that this run has paid for.
        calls_per_second: of the last minute.
        tokens: of all replies, earlier runs included.
        dollars: what they cost, None without prices.
        seconds_left: at the rate of the last minute, None while nothing can be said.
    """

    done: int
    planned: int
    calls: int
    calls_per_second: float
    tokens: int
    dollars: float | None
    seconds_left: float | None

    def __str__(self) -> str:
        """One line for people."""
        cost = "" if self.dollars is None else f", ${self.dollars:,.2f}"
        if self.dollars and self.done:
            cost += f" of about ${self.dollars * self.planned / self.done:,.2f}"
        left = "" if self.seconds_left is None else f", {_duration(self.seconds_left)} left"
        rate = f"{self.calls_per_second:.1f} calls/s"
        return f"{self.done:,} of {self.planned:,} texts, {rate}, {self.tokens:,} tokens{cost}{left}"


class Meter:
    """Counts what is done and reports it now and then."""

    def __init__(self, budget: Budget, report: Callable[[Progress], object], every_seconds: float) -> None:
        """Reports at most once in `every_seconds`."""
        self.done = 0
        self.planned = 0
        self._budget = budget
        self._report = report
        self._every = every_seconds
        self._last = time.monotonic()
        # (time, texts done, calls made) of the last minute.
        self._past = deque([(self._last, 0, budget.calls)])

    def tick(self) -> None:
        """Reports if it is time."""
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._report(self.now())

    def now(self) -> Progress:
        """Returns the progress of this moment."""
        now = time.monotonic()
        self._past.append((now, self.done, self._budget.calls))
        while len(self._past) > 2 and self._past[0][0] < now - _WINDOW_SECONDS:
            self._past.popleft()
        then, done, calls = self._past[0]
        seconds = max(now - then, 1e-6)
        rate = (self.done - done) / seconds
        # The first texts say little: those before them were plans, and those after them come many at a time.
        left = (self.planned - self.done) / rate if rate > 0 and self.done >= _LEAST_DONE else None
        return Progress(
            self.done,
            self.planned,
            self._budget.calls,
            (self._budget.calls - calls) / seconds,
            self._budget.tokens,
            self._budget.dollars,
            left,
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
