"""Settings of the CPU backend: simulated devices, threads, and memory that the process keeps.

They must be set before the first use of a JAX device. Accelerators are hardly affected.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import jax

from msm_jax.errors import InputError

# An environment variable that glibc reads when a process starts. It makes malloc request huge pages, which most
# kernels give only on request: steps of large models take 10 to 14 % less time on a CPU. Set later, it would not reach
# the heaps of JAX's threads.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def prepare(devices: int, threads: int) -> None:
    """Sets the number of CPU devices and threads.

    Args:
        devices: the number of devices that the mesh needs on all hosts together. If JAX runs on the CPU, this number
            is simulated with one thread each, unless XLA_FLAGS sets a number.
        threads: the number of threads of a single device; 0 for one per core.

    Raises:
        InputError: JAX has already started with fewer devices.
    """
    keep_freed_memory()
    if devices > 1:
        # A collective between simulated devices blocks a thread of the pool on each device until all have joined. With
        # one thread per device, two collectives on one device would wait for each other forever. Products run on the
        # device's own thread, so that spare threads cost nothing.
        _add_xla_flag("--xla_cpu_multi_thread_eigen=false")
        os.environ["NPROC"] = str(max(8 * devices, threads))
    elif threads > 0:
        # When XLA's CPU client is created, this variable sets the size of its pool, which is else the number of cores.
        os.environ["NPROC"] = str(threads)
    if devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        local = devices // int(os.environ.get("JAX_NUM_PROCESSES", "1"))
        try:
            jax.config.update("jax_num_cpu_devices", local)
        except RuntimeError as error:
            if jax.device_count() < devices:
                raise InputError(
                    f"{devices} devices are needed, but JAX has already started with fewer; use a new process"
                ) from error


def keep_programs() -> None:
    """Keeps compiled programs between processes, in the user's cache directory unless JAX's own variables say where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "msm_jax" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # With the default of one second, most programs of a small model on a CPU would not be cached.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory instead of returning it to the kernel. Has no effect without glibc.

    A program's temporary buffers are allocated again at every call. By default, glibc maps large blocks separately, so
    that they are mapped, faulted in page by page, and unmapped each time. That takes a third of a small train step.
    Kept memory is of use to the threads of its arena alone, so there are few arenas: with one for each of the threads
    that save checkpoints, a process would grow with every save.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 2**26)
        libc.mallopt(_M_ARENA_MAX, 2)


def _add_xla_flag(flag: str) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if flag.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
