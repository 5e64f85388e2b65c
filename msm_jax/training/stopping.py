"""Stopping early: SIGTERM or the first Ctrl-C asks the loop to save and end after the current step."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


class StopRequest:
    """A context in which SIGTERM and the first SIGINT are requests to stop; a second SIGINT interrupts at once.

    The earlier handlers are restored at the end. A signal that the process ignores stays ignored. With several hosts,
    JAX's preemption service tells all of them when one is asked to stop, so that they stop after the same step.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, object] = {}

    def reached(self, step: int) -> bool:
        """Returns whether to save and stop after `step` finished steps; to be called once for each step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

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
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        self._previous.clear()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        log.warning("%s: saving a checkpoint after this step", signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]  # as in __exit__
