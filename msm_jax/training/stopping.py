"""Stopping early: asked by SIGTERM or Ctrl-C, the loop saves and ends after the current step; asked again, it ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType, TracebackType

import jax

from msm_jax.foundation import termination
from msm_jax.parallel import distributed

log = logging.getLogger(__name__)


class StopRequest:
    """A context in which the first SIGTERM or SIGINT is a request to stop.

    A second one, as `termination.Requests` counts, does what it did before the context, which ends the process at once;
    no file is left half-written. The earlier handlers are restored at the end. A signal that the process ignores stays
    ignored. With several hosts, JAX's preemption service tells all of them when one is asked to stop, so that they stop
    after the same step.
    """

    def __init__(self) -> None:
        self._requests = termination.Requests()
        self._previous: dict[int, object] = {}

    def reached(self, step: int) -> bool:
        """Returns whether to save and stop after `step` finished steps; to be called once for each step."""
        if jax.process_count() > 1:
            return distributed.told_to_stop()
        return self._requests.count > 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            # In a multi-host run the preemption service handles SIGTERM.
            wanted = [signal.SIGTERM, signal.SIGINT] if jax.process_count() == 1 else []
            for number in wanted:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        self._previous.clear()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._requests.add(number):
            return
        if self._requests.count == 1:
            name = signal.Signals(number).name
            log.warning("%s: saving a checkpoint after this step; a second signal ends the process at once", name)
            return
        self._restore()
        os.kill(os.getpid(), number)
