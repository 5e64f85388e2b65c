"""Commands on several hosts: processes on this machine that know each other by JAX's variables."""

import os
import socket
import subprocess
import sys

from conftest import QUICK_COMPILES, ROOT


def named(count):
    """The variables of each of so many hosts, whose coordinator has a port that is free."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [{**shared, "JAX_PROCESS_ID": str(host)} for host in range(count)]


def start(words, directory, count=2):
    """The processes of `python WORDS` on so many hosts; their devices are those that the command asks for."""
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_COMPILES}
    return [
        subprocess.Popen(
            [sys.executable, *words], cwd=directory, env={**shared, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for variables in named(count)
    ]  # fmt: skip


def finish(hosts):
    """Their statuses and what they wrote on stderr."""
    ends = [host.communicate(timeout=1500) for host in hosts]
    return [host.returncode for host in hosts], [error for _, error in ends]
