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

from msm_jax.foundation import termination
from msm_jax.parallel import distributed

_VARIABLE = "MSM_JAX_SUPERVISOR"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Lines of JAX's coordination service, which may be followed by its last words; and those of our log, which show that
# the process lives on.
_CONCERN = re.compile(r"[WEF]\d{4} \d\d:\d\d:\d\d.*(JAX distributed service|coordination|preemption_sync)")
_FATAL = re.compile(r"^F\d{4} \d\d:\d\d:\d\d.*(JAX distributed service|coordination)", re.MULTILINE)
_LOG = re.compile(r"\d\d:\d\d:\d\d ")
_SILENT = re.compile(r"stopped sending heartbeats\):\s+((?:\d+[,\s]+)*\d+)\s")
# Process 0, where the service is, is gone; or it does not answer.
_LEADER = re.compile(r"Failed to send RPC to coordination service|CoordinationService/Heartbeat")

_REGISTER = "CoordinationService/RegisterTask"


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
    requests = termination.Requests()

    def stop(number: int, frame: FrameType | None) -> None:
        if requests.add(number):
            for each in (signal.SIGTERM, signal.SIGUSR1) if requests.count == 1 else (signal.SIGKILL,):
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
        if last_words and _LOG.match(line):
            sys.stderr.write(last_words)
            last_words = ""
        if last_words or _CONCERN.match(line):
            last_words += line
        else:
            sys.stderr.write(line)
            sys.stderr.flush()
    status = child.wait()
    if status == -signal.SIGABRT and _FATAL.search(last_words):
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
    if _LEADER.search(last_words):
        leader = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        return f"process 0 of {processes}{f' ({leader})' if leader else ''} died, or its host is out of reach"
    if _REGISTER in last_words:
        return f"not all of {processes} processes have come within {distributed.JOIN_SECONDS} s"
    return f"another of {processes} processes died"
