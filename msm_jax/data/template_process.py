"""The child process in which chat templates run, so that a template that does not end can be stopped.

Each process has one such child. It starts when the first template is compiled and ends with its parent. It keeps no
state that matters: a template that hangs is stopped by killing the child, and the next request starts another.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

from msm_jax.data import chat_rendering
from msm_jax.errors import WorkError
from msm_jax.foundation.child_process import ChildProcess

# The CPU seconds that a template may use for one text; the child measures them.
LIMIT_SECONDS = 5.0
# The seconds to wait for one text on a machine that is too busy to run the child.
LIMIT_WAIT_SECONDS = 60.0
_START_SECONDS = 600.0


class TemplateProblem(Exception):
    """A failure of a template; its text is that of `chat_rendering.problem`."""


_lock = threading.Lock()
_running: ChildProcess | None = None
# The process that started the child; after a fork the pipes still belong to it.
_owner = 0


def render(
    source: str, messages: list[Any], variables: dict[str, Any], ask: list[tuple[int, bool]]
) -> list[dict[str, Any]]:
    """Compiles a template and renders texts with it, each within `LIMIT_SECONDS` and `LIMIT_WAIT_SECONDS`.

    Args:
      source: the template's Jinja source.
      messages: the chat, as JSON values.
      variables: the other variables of the template, as JSON values.
      ask: for each text, how many of the first messages it has, and add_generation_prompt; empty to compile only.

    Returns:
      {"text", "spans", "dated"} of each text; see `chat_rendering`.

    Raises:
      TemplateProblem: the template does not compile, fails, or does not end.
      WorkError: the child cannot be started.
    """
    global _running
    asked = {"source": source, "messages": messages, "variables": variables, "ask": ask, "seconds": LIMIT_SECONDS}
    with _lock:
        process = _ready(asked)
        finished = False
        try:
            found: list[dict[str, Any]] = []
            while len(found) < max(1, len(ask)):
                found.append(process.receive(LIMIT_WAIT_SECONDS))
                if "problem" in found[-1]:
                    finished = True
                    raise TemplateProblem(found[-1]["problem"])
            finished = True
            return found[: len(ask)]
        except TimeoutError:
            raise TemplateProblem(
                f" it runs longer than {LIMIT_WAIT_SECONDS:g} seconds, on a machine that let it compute for less than "
                f"{LIMIT_SECONDS:g} of them"
            ) from None
        except EOFError:
            if process.kill() == -signal.SIGPROF:
                raise TemplateProblem(f" it runs longer than {LIMIT_SECONDS:g} seconds") from None
            raise TemplateProblem(" it ends the process that renders it, as too much memory does") from None
        finally:
            # Rendering has to stop, and a late answer must not be read as the answer to a later request.
            if not finished:
                process.kill()
                _running = None


def _ready(request: Any) -> ChildProcess:
    """Returns a child that has been sent the request: the running one, or a new one."""
    global _running, _owner
    if _running is not None and _owner == os.getpid():
        try:
            _running.send(request)
            return _running
        except BrokenPipeError:
            _running.kill()
    # Without -P, the folder of the script would come before the standard library on the path.
    started = ChildProcess([sys.executable, "-P", chat_rendering.__file__], stderr=subprocess.DEVNULL)
    try:
        started.receive(_START_SECONDS)
        started.send(request)
    except (TimeoutError, EOFError, BrokenPipeError):
        started.kill()
        raise WorkError("the process that renders chat templates did not start; run again") from None
    _running, _owner = started, os.getpid()
    return started
