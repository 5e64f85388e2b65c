"""Multi-host start: one call before the first use of a device."""

from __future__ import annotations

import os

import jax


def start() -> None:
    """Join the other hosts when the environment names a coordinator or this is a TPU pod host.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name them by hand (any platform); on Cloud
    TPU pods JAX finds them itself. A single host needs nothing and nothing happens.
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
