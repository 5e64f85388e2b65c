"""The process in which chat templates run, so that one that does not end can be ended.

One per process of ours, started when the first template is compiled, ended with us. It holds no state that matters:
where a template hangs it is killed, and the next request starts another.
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

# How long a template may compute for one text. It is measured by the process that does, in its own time.
LIMIT_SECONDS = 5.0
# How long one may be waited for, on a machine that is too busy to let it compute.
LIMIT_WAIT_SECONDS = 60.0
_START_SECONDS = 600.0


class TemplateProblem(Exception):
    """What a template did wrong, as `chat_rendering.problem` words it."""


_lock = threading.Lock()
_running: ChildProcess | None = None
# After a fork the pipes belong to the process that opened them.
_owner = 0


def render(
    source: str, messages: list[Any], variables: dict[str, Any], ask: list[tuple[int, bool]]
) -> list[dict[str, Any]]:
    """Compiles the template and renders what is asked for; each has `LIMIT_SECONDS` and `LIMIT_WAIT_SECONDS`.

    Args:
      source: of the template.
      messages, variables: what the template is given, as JSON would hold it.
      ask: (number of the first messages that are given, add_generation_prompt) of each text; none to compile only.

    Returns:
      {"text", "spans", "dated"} of each; see `chat_rendering`.

    Raises:
      TemplateProblem: the template is refused.
      WorkError: no process can be started.
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
            # What is under way has to stop, and no answer to it may be taken for that to a later request.
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
    # Without -P the folder of the script would go before the standard library.
    started = ChildProcess([sys.executable, "-P", chat_rendering.__file__], stderr=subprocess.DEVNULL)
    try:
        started.receive(_START_SECONDS)
        started.send(request)
    except (TimeoutError, EOFError, BrokenPipeError):
        started.kill()
        raise WorkError("the process that renders chat templates did not start; run again") from None
    _running, _owner = started, os.getpid()
    return started
