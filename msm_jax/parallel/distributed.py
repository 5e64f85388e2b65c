"""Runs on several hosts: their start, before the first use of a device, and what they decide together."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from msm_jax.errors import InputError
from msm_jax.foundation import lock

# A process that gives no sign of life for so long counts as dead, and JAX ends those of the other hosts.
HEARTBEAT_SECONDS = 30
# How long the processes of a run wait for each other at its start.
JOIN_SECONDS = 300
# How often all hosts have asked whether to stop, and whether they shall; JAX counts on with every question.
_asked = itertools.count(1)
_told_to_stop = threading.Event()


def processes() -> int:
    """Returns the number of processes that the environment names, 1 where it names none; starts nothing.

    Raises:
        InputError: it names a coordinator and no number.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        return _number("JAX_NUM_PROCESSES")
    return len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(","))


def is_started() -> bool:
    """Returns whether this process has joined others."""
    return jax.distributed.is_initialized()


def start() -> None:
    """Joins the other hosts if the environment names a coordinator, or if this host belongs to a TPU pod.

    On any platform, `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name the hosts. On Cloud TPU
    pods, JAX finds them itself. Does nothing on a single host.

    Raises:
        InputError: the first variable is set, and one of the others is not a number.
    """
    if is_started():
        return
    join = functools.partial(
        jax.distributed.initialize,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        initialization_timeout=JOIN_SECONDS,
    )
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        join(
            coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=processes(),
            process_id=_number("JAX_PROCESS_ID"),
        )
    elif processes() > 1:
        join()


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    if not value.isdecimal():
        raise InputError(f"{variable}={value}: must be a number beside JAX_COORDINATOR_ADDRESS; set it on each host")
    return int(value)


def told_to_stop() -> bool:
    """Returns whether any of several hosts got SIGTERM, the same on all of them; every host calls it equally often."""
    if multihost_utils.reached_preemption_sync_point(next(_asked)):
        _told_to_stop.set()
    return _told_to_stop.is_set()


def any_host(flag: bool) -> bool:
    """Returns whether `flag` is True on any host; every host calls it."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.array(flag))))


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a directory for all hosts of a run while the context lasts: the first of them has its lock.

    Raises:
        InputError: another run has it, on every host; see `foundation.lock.hold`.
    """
    with contextlib.ExitStack() as stack:
        refused = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock.hold(directory))
            except InputError as error:
                refused = error
        if any_host(refused is not None):
            raise refused or InputError(f"{directory}: refused by process 0, whose message says why")
        yield
