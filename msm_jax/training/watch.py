"""A thread beside the loop that notices when no step ends any more, and when a trace is asked for."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax

# The file that asks for a trace by being created or touched, in the directory of the run. A file reaches every host
# through the storage that they share, and harms no process that does not look at it: a signal would end one.
REQUEST = "trace"
# A step that takes this many times the usual one has stalled, if it also exceeds `stall_seconds` of the config. Even
# steps that wait for a slow disk or for held-out loss end long before.
USUAL_STEPS = 20

_POLL_SECONDS = 1.0


class Watch:
    """A context in which a thread watches the loop of a run.

    If nothing that the loop does ends within the bound, it writes the stacks of all threads of this process to
    RUN/stalls/ and says so once. The run goes on: whether to end it is for its user or for its cluster to say.
    """

    def __init__(self, run_dir: Path, stall_seconds: float, say: Callable[[str], None]) -> None:
        self._run_dir, self._least, self._say = run_dir, stall_seconds, say
        self._poll = min(_POLL_SECONDS, stall_seconds / 4)
        self._step, self._at, self._usual = 0, float("inf"), 0.0
        self._requested = self._time_of_request()
        self._trace_is_asked = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(5 * _POLL_SECONDS)  # longer only if storage stalls, which is no reason not to end

    def alive(self, step: int, usual: float | None) -> None:
        """Tells that the loop goes on, in the turn of `step`, and how many seconds a step usually takes.

        Nothing is a stall before the first call, since compiling may take long.
        """
        self._step, self._usual, self._at = step, usual or 0.0, time.monotonic()

    def is_asked(self) -> bool:
        """Returns whether a trace was asked for since this was called last."""
        asked, self._trace_is_asked = self._trace_is_asked, False
        return asked

    def _watch(self) -> None:
        said = -1
        while not self._ended.wait(self._poll):
            step, bound = self._step, max(self._least, USUAL_STEPS * self._usual)
            if time.monotonic() - self._at > bound and said != step:
                said = step
                self._say_stalled(step, bound)
            requested = self._time_of_request()
            if requested != self._requested:
                self._requested, self._trace_is_asked = requested, requested > 0

    def _say_stalled(self, step: int, bound: float) -> None:
        path = self._run_dir / "stalls" / f"step{step}.host{jax.process_index()}.txt"
        usual = f" (a step usually takes {self._usual:.3g} s)" if self._usual else ""
        where = f"the stacks of all threads are in {path}"
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file)
        except OSError as error:  # the storage may be what has stalled; the line is then all that can be said
            where = f"{path} cannot be written: {error.strerror}"
        self._say(f"no progress for {bound:.0f} s at step {step}{usual}; {where}")

    def _time_of_request(self) -> int:
        try:
            return (self._run_dir / REQUEST).stat().st_mtime_ns
        except OSError:
            return 0
