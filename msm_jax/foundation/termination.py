"""SIGTERM as an exception, for work that has nothing to save at it: planning, evals, reports."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

_AGAIN_SECONDS = 0.1


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived where nothing else handles it.

    It is a kind of KeyboardInterrupt because asyncio, in which evals run, logs and drops other exceptions that a signal
    handler raises within a callback.
    """


@contextlib.contextmanager
def raising(number: int = signal.SIGTERM) -> Iterator[None]:
    """Lets a signal raise Terminated in the main thread, which calls this, while the context lasts.

    Python drops an exception that is raised in a callback, such as JAX's of the garbage collector. Then the signal is
    sent once more, shortly afterwards.
    """
    before, hook = signal.signal(number, _raise), sys.unraisablehook

    def dropped(problem: sys.UnraisableHookArgs) -> None:
        if not isinstance(problem.exc_value, Terminated):
            hook(problem)
            return
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        signal.signal(number, before)
        sys.unraisablehook = hook


def _raise(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
