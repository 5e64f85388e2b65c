"""Signals that ask a process to stop: how often it was asked, and SIGTERM as an exception where nothing is saved."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from msm_jax.errors import causes

_AGAIN_SECONDS = 0.1
# systemd and Slurm send SIGTERM to all processes of a run. Those that are also told by their parent get it twice.
_SAME_SECONDS = 5.0


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived where nothing else handles it.

    It is a kind of KeyboardInterrupt because asyncio, in which evals run, logs and drops other exceptions that a signal
    handler raises within a callback.
    """


class Requests:
    """How often a process was asked to stop."""

    def __init__(self) -> None:
        """Counts from 0."""
        self.count = 0
        self._terminated = -math.inf

    def add(self, number: int) -> bool:
        """Counts a signal, and returns whether it counts: SIGTERM that comes again within 5 seconds does not."""
        if number == signal.SIGTERM:
            before, now = self._terminated, time.monotonic()
            if now - before < _SAME_SECONDS:
                return False
            self._terminated = now
        self.count += 1
        return True


@contextlib.contextmanager
def raising(number: int = signal.SIGTERM) -> Iterator[None]:
    """Lets a signal raise Terminated in the main thread, which calls this, while the context lasts.

    Python drops an exception that is raised in a callback, such as JAX's of the garbage collector. Then the signal is
    sent once more, shortly afterwards. An error that Terminated led to ends the block as Terminated.
    """
    requests = Requests()

    def handle(received: int, frame: FrameType | None) -> None:
        if requests.add(received):
            raise Terminated

    before, hook = signal.signal(number, handle), sys.unraisablehook

    def dropped(problem: sys.UnraisableHookArgs) -> None:
        nonlocal requests
        if not isinstance(problem.exc_value, Terminated):
            hook(problem)
            return
        requests = Requests()
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    sys.unraisablehook = dropped
    try:
        yield
    except Exception as error:
        if led_to(error):
            raise Terminated from error
        raise
    finally:
        signal.signal(number, before)
        sys.unraisablehook = hook


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Lets SIGTERM wait until the block ends, where a function of Python handles it.

    Modules are imported so: an extension can crash the process if an exception meets it while it is initialised.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if arrived:
            signal.raise_signal(signal.SIGTERM)


def led_to(error: BaseException) -> bool:
    """Returns whether an error has Terminated among its causes: libraries take it for a failure of their own."""
    return any(isinstance(each, Terminated) for each in causes(error))
