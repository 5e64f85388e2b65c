"""The start of a run on several hosts: one call before the first use of a device."""

from __future__ import annotations

import os

import jax


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
