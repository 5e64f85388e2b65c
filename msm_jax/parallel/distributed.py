"""Runs on several hosts: their start, before the first use of a device, and what they decide together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from msm_jax.errors import InputError
from msm_jax.foundation import lock


def start() -> None:
    """Joins the other hosts if the environment names a coordinator, or if this host belongs to a TPU pod.

    On any platform, `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name the hosts. On Cloud TPU
    pods, JAX finds them itself. Does nothing on a single host.
    """
    if jax.distributed.is_initialized():
        return
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize(
            coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
    elif len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        jax.distributed.initialize()


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
