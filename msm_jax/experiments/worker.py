"""A process that runs nodes one after the other, so that imports and compilation happen once.

Its messages are lines of JSON: a task {"id", "call": "module:function", "args"} on stdin; for each task, on stdout, any
number of {"event": "progress", "id", "progress"} and one of {"event": "done", "id", "seconds"}, {"event": "failed",
"id", "kind", "message"} or {"event": "stopped", "id"}. A called function takes (args, report) and leaves its
result on the disk. What it prints goes to stderr, which is the worker's log. SIGTERM, or the end
of stdin (the parent has died), stops the running task: a train loop saves a checkpoint first. SIGINT is ignored,
because the parent handles it.
"""

import contextlib
import importlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import child_process, lock, termination
from msm_jax.foundation.termination import Terminated

Report = Callable[[dict[str, Any]], None]

# A task that has not reached a checkpoint this long after the parent died is abandoned.
_ORPHAN_SECONDS = 120.0
_SENDING = threading.Lock()


def main() -> int:
    """Runs tasks until SIGTERM or the end of stdin.

    The first command-line argument, if any, is "module:function". It is called first, with the other arguments as
    integers.
    """
    channel = child_process.reserve_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    with contextlib.suppress(Terminated), termination.raising(), lock.inherited():
        threading.Thread(target=_read, args=(tasks,), daemon=True).start()
        if len(sys.argv) > 1:
            resolve(sys.argv[1])(*(int(argument) for argument in sys.argv[2:]))
        while _run(tasks.get(), channel):
            pass
    return 75


def resolve(call: str) -> Callable[..., Any]:
    """Returns the function that "module:function" names."""
    module, function = call.split(":")
    with termination.held():
        return getattr(importlib.import_module(module), function)


def run(task: Mapping[str, Any], send: Callable[[dict[str, Any]], None], *more: Any) -> dict[str, Any]:
    """Runs one task, sends its progress, and returns how it ended: one of the events above.

    Its function gets `more` after (args, report).
    """

    def report(progress: dict[str, Any]) -> None:
        send({"event": "progress", "id": task["id"], "progress": progress})

    start = time.monotonic()
    try:
        resolve(task["call"])(task["args"], report, *more)
    except (InputError, WorkError) as error:
        if termination.led_to(error):
            return {"event": "stopped", "id": task["id"]}
        kind = "InputError" if isinstance(error, InputError) else "WorkError"
        return {"event": "failed", "id": task["id"], "kind": kind, "message": str(error)}
    except (Preempted, Terminated):
        return {"event": "stopped", "id": task["id"]}
    return {"event": "done", "id": task["id"], "seconds": time.monotonic() - start}


def _run(task: dict[str, Any], channel: TextIO) -> bool:
    """Runs one task and sends how it ended; returns False if it was stopped."""
    print(f"{time.strftime('%H:%M:%S')} {task['id']}", flush=True)
    ended = run(task, lambda event: _send(channel, event))
    _send(channel, ended)
    return bool(ended["event"] != "stopped")


def _send(channel: TextIO, message: dict[str, Any]) -> None:
    # If the parent has ended, the reader thread sees the end of stdin and stops the task. Any thread may report.
    with _SENDING, contextlib.suppress(BrokenPipeError):
        child_process.reply(channel, message)


def _read(tasks: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for task in child_process.requests():
        tasks.put(task)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
