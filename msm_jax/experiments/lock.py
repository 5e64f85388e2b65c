"""Lock files: one run at a time in a working directory, and one process at a time that makes a shared result.

The lock file of a working directory names the host and process that hold it. It is locked with `flock`, and the worker
processes inherit the descriptor. So the lock is free as soon as the last of them has ended, in whatever way. A file
system that hosts share may not share `flock`; there the host in the file and the age of the file decide, because a
live holder touches it.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msm_jax.errors import InputError

_TOUCH_SECONDS = 30.0
_STALE_SECONDS = 600.0
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def hold(workdir: Path, patience: float = 60.0) -> Iterator[int]:
    """Holds `workdir` while the context lasts; yields the file descriptor that child processes inherit.

    Args:
      workdir: an existing directory; the lock is its file `lock`.
      patience: seconds to wait for the workers of a run whose main process has ended; they may be saving checkpoints.

    Raises:
      InputError: another live process holds it.
    """
    path = workdir / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(fd, path, workdir, patience)
        me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(me).encode(), 0)
        released = threading.Event()
        toucher = threading.Thread(target=_touch, args=(fd, released), daemon=True)
        toucher.start()
        try:
            yield fd
        finally:
            released.set()
            toucher.join()
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@contextlib.contextmanager
def exclusive(path: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Holds a lock file while the context lasts; waits where another process holds it, after one call of `waits`.

    The lock is free when its holder has ended, however it ended. It needs a file system that shares `flock`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        said = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    waits()
                said = True
                # Not one blocking call, so that a signal is handled.
                time.sleep(_POLL_SECONDS)
        yield


def _acquire(fd: int, path: Path, workdir: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(fd)
            if holder is None or (holder["host"] == socket.gethostname() and not _alive(holder["pid"])):
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                raise InputError(
                    f"{workdir}: in use by worker processes of a run that has ended; stop them or wait"
                ) from None
            raise _in_use(workdir, holder) from None
        holder = _holder(fd)
        age = time.time() - os.fstat(fd).st_mtime
        if holder is not None and holder["host"] != socket.gethostname() and age < _STALE_SECONDS:
            message = f"{_in_use(workdir, holder)}; if that process has ended, delete {path}"
            raise InputError(message)
        return


def _in_use(workdir: Path, holder: dict) -> InputError:
    return InputError(
        f"{workdir}: in use by process {holder['pid']} on host {holder['host']} since {holder['since']}; "
        "wait for it, stop it, or give another --workdir"
    )


def _holder(fd: int) -> dict | None:
    """Returns what the file says about its holder, None if it is empty or incomplete."""
    try:
        content = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return None
    complete = isinstance(content, dict) and {"host", "pid", "since"} <= content.keys()
    return content if complete and isinstance(content["pid"], int) else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _touch(fd: int, released: threading.Event) -> None:
    while not released.wait(_TOUCH_SECONDS):
        os.utime(fd)
