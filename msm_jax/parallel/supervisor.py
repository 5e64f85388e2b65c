"""Runs one of several processes of a run as a child, and says in one line which other process has died.

When a process dies, JAX ends those of the other hosts by abort() within `distributed.HEARTBEAT_SECONDS`, and no Python
code runs in them any more.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

_VARIABLE = "MSM_JAX_SUPERVISOR"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Lines of JAX's coordination service. The last words of a process begin with F.
_FATAL = re.compile(r"F\d{4} \d\d:\d\d:\d\d.*(JAX distributed service|coordination)")
_SILENT = re.compile(r"stopped sending heartbeats\):\s+((?:\d+[,\s]+)*\d+)\s")
_LEADER = "Failed to send RPC to coordination service"


def is_child() -> bool:
    """Returns whether this process has a supervisor; from then on it ends with it."""
    supervisor = os.environ.get(_VARIABLE)
    if supervisor is None:
        return False
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(supervisor):
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def run(command: Sequence[str], processes: int) -> int:
    """Runs a command to its end, and returns its exit status; 75 where JAX ended it because another process has died.

    SIGTERM and SIGINT reach it as SIGTERM, which JAX handles, and SIGUSR1, which work of one host handles; a second
    signal kills it.

    Args:
        command: its words; it calls `is_child`.
        processes: of the run.
    """
    signals = []

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        for each in (signal.SIGTERM, signal.SIGUSR1) if len(signals) == 1 else (signal.SIGKILL,):
            child.send_signal(each)

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the child inherits this
    child = subprocess.Popen(
        command, env={**os.environ, _VARIABLE: str(os.getpid())}, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    assert child.stderr is not None
    last_words = ""
    for line in child.stderr:
        if last_words or _FATAL.match(line):
            last_words += line
        else:
            sys.stderr.write(line)
            sys.stderr.flush()
    status = child.wait()
    if status == -signal.SIGABRT and last_words:
        print(f"preempted: {_lost(last_words, processes)}; run the same command again to continue", file=sys.stderr)
        return 75
    sys.stderr.write(last_words)
    return status if status >= 0 else 128 - status


def _lost(last_words: str, processes: int) -> str:
    """Returns what the coordination service says, in words: which process sent no sign of life, or that it is gone."""
    found = _SILENT.search(last_words)
    if found:
        names = re.findall(r"\d+", found[1])
        return f"process {' and '.join(names)} of {processes} died, or its host is out of reach"
    if _LEADER in last_words:
        leader = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        return f"process 0 of {processes}{f' ({leader})' if leader else ''} died, or its host is out of reach"
    return f"another of {processes} processes died"
