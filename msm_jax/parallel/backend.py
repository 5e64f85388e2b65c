"""How the CPU backend starts: simulated devices, threads, and memory that stays with the process.

All of it must be set before the first use of a JAX device; on accelerators it changes nothing that matters.
"""

from __future__ import annotations

import ctypes
import os
import sys

import jax

from msm_jax.errors import InputError

# What glibc reads as a process starts: ask for huge pages, which most kernels lend on request alone. The steps of large
# models take a tenth to a seventh less on a CPU. In a process that runs it is too late for the heaps of JAX's threads.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def prepare(devices: int, threads: int) -> None:
    """Fixes the CPU's devices and threads.

    Args:
        devices: devices that the mesh needs on all hosts together. Where the CPU is the device, that many are
            simulated, one thread each, unless XLA_FLAGS sets a number.
        threads: threads of a single device (0: one per core).

    Raises:
        InputError: JAX has already started with fewer devices.
    """
    keep_freed_memory()
    if devices > 1:
        # XLA's collectives between simulated devices block a thread of the pool each while they wait for one another:
        # with a pool of one thread a device, two of them on one device starve the other for good. Products run on the
        # device's own thread, so that spare threads cost nothing.
        _add_xla_flag("--xla_cpu_multi_thread_eigen=false")
        os.environ["NPROC"] = str(max(8 * devices, threads))
    elif threads > 0:
        # XLA's CPU client sizes its pool by this variable when it is created, and by the cores without it.
        os.environ["NPROC"] = str(threads)
    if devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        local = devices // int(os.environ.get("JAX_NUM_PROCESSES", "1"))
        try:
            jax.config.update("jax_num_cpu_devices", local)
        except RuntimeError as error:
            if jax.device_count() < devices:
                raise InputError(f"{devices} devices are needed but JAX has started with fewer") from error


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed instead of handing it back to the kernel; elsewhere it does nothing.

    A program's temporary buffers are allocated anew at every call. As separate mappings, glibc's way with large
    blocks, they are mapped, faulted in page by page and unmapped each time: a third of the time of a small train step.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 2**26)


def _add_xla_flag(flag: str) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if flag.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
