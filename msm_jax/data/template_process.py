"""The process in which chat templates run, so that one that does not end can be ended.

One per process of ours, started when the first template is compiled, ended with us. It holds no state that matters:
where a template hangs it is killed, and the next request starts another.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from typing import Any

from msm_jax.data import chat_rendering
from msm_jax.errors import WorkError

# How long a template may compute for one text. It is measured by the process that does, in its own time.
LIMIT_SECONDS = 5.0
# How long one may be waited for, on a machine that is too busy to let it compute.
LIMIT_WAIT_SECONDS = 60.0
_START_SECONDS = 600.0


class TemplateProblem(Exception):
    """What a template did wrong, as `chat_rendering.problem` words it."""


class _Process:
    """The other process, and the pipes to it."""

    def __init__(self) -> None:
        # Without -P the folder of the script would go before the standard library.
        command = [sys.executable, "-P", chat_rendering.__file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        self._unread = b""
        self.owner = os.getpid()
        if not self.starts():
            self.kill()
            raise WorkError("the process that renders chat templates did not start; try again")

    def starts(self) -> bool:
        """Whether the process says that it is ready."""
        try:
            return self.read_line(_START_SECONDS) is not None
        except EOFError:
            return False

    def write_line(self, line: bytes) -> None:
        self._requests.write(line)
        self._requests.flush()

    def read_line(self, seconds: float) -> bytes | None:
        """The next line, None where the time ran out; EOFError where the process ended."""
        waited = 0.0
        while b"\n" not in self._unread:
            # In turns of a second that count for no more: Ctrl-Z stops both processes, but not the clock.
            if not self._selector.select(min(1.0, seconds - waited)):
                waited += 1.0
                if waited >= seconds:
                    return None
                continue
            got = os.read(self._answers.fileno(), 1 << 20)
            if not got:
                raise EOFError
            self._unread += got
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def kill(self) -> int:
        """Ends the process; its exit status, minus the signal that had ended it before."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._selector.close()
        return self._process.returncode


_lock = threading.Lock()
_running: _Process | None = None


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
    request = json.dumps(asked).encode()
    with _lock:
        process = _running = _ready(request + b"\n")
        finished = False
        try:
            found: list[dict[str, Any]] = []
            while len(found) < max(1, len(ask)):
                line = process.read_line(LIMIT_WAIT_SECONDS)
                if line is None:
                    raise TemplateProblem(
                        f" it runs longer than {LIMIT_WAIT_SECONDS:g} seconds, on a machine that let it compute for "
                        f"less than {LIMIT_SECONDS:g} of them"
                    )
                found.append(json.loads(line))
                if "problem" in found[-1]:
                    finished = True
                    raise TemplateProblem(found[-1]["problem"])
            finished = True
            return found[: len(ask)]
        except EOFError:
            if process.kill() == -signal.SIGPROF:
                raise TemplateProblem(f" it runs longer than {LIMIT_SECONDS:g} seconds") from None
            raise TemplateProblem(" it ends the process that renders it, as too much memory does") from None
        finally:
            # What is under way has to stop, and no answer to it may be taken for that to a later request.
            if not finished:
                process.kill()
                _running = None


def _ready(request: bytes) -> _Process:
    """A process that has been given the request: the running one, or a new one."""
    # After a fork the pipes belong to the process that opened them.
    if _running is not None and _running.owner == os.getpid():
        try:
            _running.write_line(request)
            return _running
        except BrokenPipeError:
            _running.kill()
    process = _Process()
    process.write_line(request)
    return process
