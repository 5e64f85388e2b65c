"""Runs a scripted server in a process of its own, which ends with the process that started it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

from msm_jax.errors import WorkError
from msm_jax.foundation import settings
from msm_jax.synthesis.scripted.server import Settings


@contextlib.contextmanager
def running(chosen: Settings = Settings(), port: int = 0) -> Iterator[str]:  # noqa: B008  # frozen, so it can be shared
    """Yields the base URL of a server that runs until the block is left.

    Raises:
        WorkError: the server does not start.
    """
    flags = {"port": port, "seed": chosen.seed, "latency": chosen.latency, "log": chosen.log, "key": chosen.key,
             "faults": json.dumps(settings.to_json(chosen.faults))}
    command = [sys.executable, "-m", "msm_jax.synthesis.scripted", "--with_parent",
               *(f"--{name}={value}" for name, value in flags.items() if value is not None)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout
    try:
        url = child.stdout.readline().strip()
        if not url:
            raise WorkError(f"the scripted server did not start (status {child.wait()}); see its message above")
        yield url
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
