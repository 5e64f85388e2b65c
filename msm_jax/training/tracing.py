"""Traces for XProf, of steps that the config names and on demand; each host writes its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from msm_jax.foundation import storage

# The steps of a trace on demand: enough to see what repeats, and a file that a browser still opens.
STEPS_ON_DEMAND = 3


class Tracer:
    """Traces whole steps into a directory.

    A trace begins before a step is dispatched, and ends after its last step; by then the step after it may have begun.
    It is a context that ends a trace that still goes on. Each trace has a directory of its own, named for its first
    step: JAX names the files of a trace by the second, so that two within one second would share a file.
    """

    def __init__(
        self, directory: Path, steps: tuple[int, ...], is_asked: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        """Traces into `directory` the steps from the first of `steps` to the last, and on demand.

        `is_asked` returns whether a trace was asked for since it was called last; `say` receives a line on each trace.
        """
        self._directory, self._steps, self._is_asked, self._say = directory, steps, is_asked, say
        self._first = self._last = 0  # of the trace that goes on; the last is 0 without one

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._last:
            self.end()

    def is_due(self, step: int) -> bool:
        """Returns whether a trace is to begin with this step; to be called once for each step."""
        if self._last:
            return False
        if self._steps and self._steps[0] <= step <= self._steps[-1]:
            self._first, self._last = step, self._steps[-1]
        elif self._is_asked():
            self._first, self._last = step, step + STEPS_ON_DEMAND - 1
        return self._last > 0

    def begin(self) -> None:
        """Begins the trace that is due.

        Raises:
            WorkError: its directory cannot be written.
        """
        directory = self._directory / f"trace_step{self._first}"
        with storage.writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(directory)

    def is_over(self, step: int) -> bool:
        """Returns whether `step`, which has ended, is the last of the trace that goes on."""
        return 0 < self._last <= step

    def end(self) -> None:
        """Writes the trace that goes on."""
        self._last = 0
        jax.profiler.stop_trace()
        self._say(f"trace from step {self._first} on in {self._directory}; show it with xprof or TensorBoard")
