"""One owner at a time: of a directory that is worked in, of a URL that is written to, of a result that processes share.

A directory is held by its file `lock`, which names the host and process that hold it. The file is locked with `flock`,
and worker processes inherit the descriptor. So the lock is free as soon as the last of them has ended, in whatever way.

File systems that hosts share may not share `flock`, and object stores have no locks. There the owner renews its lock
every 10 seconds, and a lock that is not renewed for a minute has lost its owner. A process that wants the lock watches
it for that long, so that no two clocks are compared.

At a URL the lock is the object URL.lock, which is created on the condition that there is none. Google Cloud Storage
(gcsfs), S3 (s3fs), Azure (adlfs) and memory:// decide that themselves. Where fsspec looks first and writes then (ftp,
sftp, webdav and others), two that come at the same moment both write; therefore each reads the lock again after a
second, and the one whose name is no longer there is refused. Worker processes do not inherit such a lock, but they know
of it by a variable, and renew it where the process that holds it was killed: `inherited`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import storage
from msm_jax.foundation.storage import Location

# The workers of a main process that was killed end within 120 seconds: experiments/worker.py.
_PATIENCE_SECONDS = 150.0
_SILENT_SECONDS = 60.0
_BEAT_SECONDS = 10.0
_SETTLE_SECONDS = 1.0
# A process that has just been sent SIGKILL still looks alive.
_GRACE_SECONDS = 0.5
_POLL_SECONDS = 0.1
_ATTEMPTS = 20
# The environment variable with the locks of URLs that a process and its children live by: [[URL, holder], ...].
_PASSED_ON = "MSM_JAX_LOCKS"
# The flag in /proc/PID/stat of a process that is ending (include/linux/sched.h).
_PF_EXITING = 0x4

_Holder = Mapping[str, Any]

# What this process held until another one took it over.
_lost: set[str] = set()

log = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(
    directory: Location, patience: float = _PATIENCE_SECONDS, silence: float = _SILENT_SECONDS
) -> Iterator[list[int]]:
    """Holds a local directory or a URL while the context lasts, and takes it over from an owner that has ended.

    A local directory that does not exist is made, and removed at the end if nothing else has been put there.

    Args:
      directory: what to hold.
      patience: seconds to wait for the workers of a run whose main process has ended; they may be saving checkpoints.
      silence: seconds without a sign of life after which the lock of another host is taken over.

    Yields:
      The file descriptors that worker processes inherit: one on a disk, none at a URL.

    Raises:
      InputError: another live process holds it, or the directory cannot be written.
      WorkError: the storage of the URL does not answer.
    """
    if storage.is_url(directory):
        with _held_url(os.fspath(directory).rstrip("/"), silence):
            yield []
    else:
        with _held_directory(Path(directory), patience, silence) as fd:
            yield [fd]


@contextlib.contextmanager
def inherited() -> Iterator[None]:
    """Keeps up, while the context lasts, the locks of URLs whose holder started this process and was killed since.

    So nobody takes over a URL to which the processes of a run still write, as on a disk.
    """
    with contextlib.ExitStack() as stack:
        for url, holder in json.loads(os.environ.get(_PASSED_ON, "[]")):
            if holder["pid"] != os.getpid():
                path = f"{url}.lock"
                renew, look = functools.partial(_renew_orphaned, path, holder), functools.partial(_at, path)
                stack.enter_context(_renewed(holder, renew, look, url))
        yield


def refuse_lost(url: str) -> None:
    """Refuses to write to a URL if another process has taken it over, or one above it, from this one.

    Raises:
      WorkError: it has.
    """
    for lost in _lost:
        if f"{url}/".startswith(f"{lost}/"):
            taken = f"{lost}: taken over by another process while this one stood still"
            raise WorkError(f"{taken}; nothing is written to it")


def _renew_orphaned(path: str, holder: _Holder) -> None:
    if not _lives(holder["pid"]) and _at(path) is not None:
        storage.write_json(path, {**holder, "beat": time.time_ns()})


@contextlib.contextmanager
def exclusive(path: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Holds a lock file while the context lasts; waits where another process holds it, after one call of `waits`.

    The lock is free when its holder has ended, however it ended. It needs a file system that shares `flock`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        said = False
        while not _flock(file.fileno()):
            if not said:
                waits()
            said = True
            # Not one blocking call, so that a signal is handled.
            time.sleep(_POLL_SECONDS)
        yield


@contextlib.contextmanager
def _held_directory(directory: Path, patience: float, silence: float) -> Iterator[int]:
    path, me = directory / "lock", _me()
    made = [each for each in (directory, *directory.parents) if not each.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = _acquire(path, patience, silence)
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(me).encode(), 0)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another directory") from error
    try:
        with _renewed(me, lambda: os.utime(fd), lambda: _parse(path.read_bytes()), directory):
            yield fd
    finally:
        # A directory that was moved or is no longer writable must not hide the error with which the work ended.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            if made and os.listdir(directory) == [path.name]:
                path.unlink()
                for each in made:
                    each.rmdir()
        os.close(fd)


def _acquire(path: Path, patience: float, silence: float) -> int:
    """Returns the descriptor of the locked file, whose last holder has ended.

    Raises:
      InputError: another live process holds it.
      OSError: the file cannot be written.
    """
    grace, deadline, said = time.monotonic() + _GRACE_SECONDS, time.monotonic() + patience, False
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if _flock(fd):
                _take_over(path, fd, silence)
                # The file may have been deleted meanwhile, and another one be locked in its place.
                if os.path.exists(path) and os.path.samestat(os.fstat(fd), path.stat()):
                    kept, fd = fd, -1
                    return kept
                continue
            holder = _parse(os.pread(fd, 4096, 0))
        finally:
            if fd >= 0:
                os.close(fd)
        now = time.monotonic()
        if holder is not None and (holder["host"] != socket.gethostname() or _lives(holder["pid"])):
            if now > grace:
                raise _in_use(path.parent, holder)
        elif now > deadline:
            raise InputError(f"{path.parent}: in use by worker processes of a run that has ended; stop them or wait")
        elif now > grace and not said:
            run = f"process {holder['pid']}" if holder else "a run"
            log.warning("%s: %s has ended; waiting for its worker processes to end", path.parent, run)
            said = True
        time.sleep(_POLL_SECONDS)


def _take_over(path: Path, fd: int, silence: float) -> None:
    """Says from whom a locked file is taken over, if its holder has ended without releasing it.

    Raises:
      InputError: the holder is on another host, which does not share `flock`, and gives signs of life.
    """
    holder = _parse(os.pread(fd, 4096, 0))
    if holder is None:
        return
    if holder["host"] != socket.gethostname():
        _watch(path.parent, lambda: (_parse(path.read_bytes()), path.stat().st_mtime_ns), silence)
    log.warning("%s: taken over from %s, which has ended without releasing it", path.parent, _name(holder))


@contextlib.contextmanager
def _held_url(url: str, silence: float) -> Iterator[None]:
    path, me, beats = f"{url}.lock", _me(), itertools.count(1)
    _claim(url, path, me, silence)
    _lost.discard(url)
    before = os.environ.get(_PASSED_ON, "[]")
    os.environ[_PASSED_ON] = json.dumps([*json.loads(before), [url, me]])
    try:
        with _renewed(me, lambda: storage.write_json(path, {**me, "beat": next(beats)}), lambda: _at(path), url):
            yield
    finally:
        os.environ[_PASSED_ON] = before
        # Where the storage stays away, the lock is taken over later; that must not hide how the work ended.
        with contextlib.suppress(WorkError):
            if _is(_at(path), me):
                storage.remove(path)


def _claim(url: str, path: str, me: _Holder, silence: float) -> None:
    """Creates the lock of a URL, after that of an owner that has ended is removed.

    Raises:
      InputError: another live process holds it.
      WorkError: the storage does not answer, or does not give back what was written.
    """
    for _ in range(_ATTEMPTS):
        # A call that failed after it had written, and was tried again, has created it too.
        if storage.create(path, storage.json_bytes(me)) or _is(_at(path), me):
            time.sleep(_SETTLE_SECONDS)
            if _is(_at(path), me):
                return
        holder = _at(path)
        if holder is None:
            # Released in the meantime, or no lock of ours: those are written whole.
            storage.remove(path)
            continue
        here = holder["host"] == socket.gethostname() and holder["pid"] != os.getpid()
        if here and _lives(holder["pid"]):
            raise _in_use(url, holder)
        if not here:
            _watch(url, lambda: (_at(path), 0), silence)
        if _at(path) == holder:
            storage.remove(path)
            log.warning("%s: taken over from %s, which has ended without releasing it", url, _name(holder))
    raise WorkError(f"{path}: cannot be locked, since others write it, or it is not read back; run again")


def _watch(what: Location, look: Callable[[], tuple[_Holder | None, int]], silence: float) -> None:
    """Waits for a sign of life of an owner on another host, or for its release.

    Raises:
      InputError: the holder or the number that `look` returns has changed within `silence` seconds.
    """
    first, deadline = look(), time.monotonic() + silence
    name = _name(first[0]) if first[0] else "another process"
    log.warning("%s: locked by %s; watching for %.0f s whether it still runs", what, name, silence)
    while time.monotonic() < deadline:
        time.sleep(min(1.0, silence / 10))
        now = look()
        if now[0] is None:
            return
        if now != first:
            raise _in_use(what, now[0])


@contextlib.contextmanager
def _renewed(
    me: _Holder, renew: Callable[[], object], look: Callable[[], _Holder | None], what: Location
) -> Iterator[None]:
    """Renews a lock in the background; asks this process to end, by SIGTERM, if another one has taken it over.

    That happens to a process that stood still for a minute.
    """
    released = threading.Event()

    def beat() -> None:
        while not released.wait(_BEAT_SECONDS):
            try:
                now = look()
                if now is not None and not _is(now, me):
                    log.error("%s: taken over by %s while this process stood still; ending", what, _name(now))
                    _lost.add(str(what))
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                renew()
            except (OSError, InputError, WorkError) as error:
                # The next beat may succeed.
                log.warning("%s: its lock cannot be renewed: %s", what, error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()


def _me() -> dict[str, Any]:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "token": secrets.token_hex(8)}


def _is(holder: _Holder | None, me: _Holder) -> bool:
    return holder is not None and holder.get("token") == me["token"]


def _name(holder: _Holder) -> str:
    return f"process {holder['pid']} on host {holder['host']} since {holder['since']}"


def _in_use(what: Location, holder: _Holder) -> InputError:
    return InputError(f"{what}: in use by {_name(holder)}; wait for it, stop it, or give another directory")


def _at(path: str) -> _Holder | None:
    """Returns the holder that the lock of a URL names, None if there is no lock."""
    try:
        return _parse(storage.read_bytes(path))
    except InputError:
        return None


def _parse(content: bytes) -> _Holder | None:
    """Returns what a lock says about its holder, None if it is empty or incomplete."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    complete = isinstance(found, dict) and {"host", "pid", "since"} <= found.keys()
    return found if complete and isinstance(found["pid"], int) else None


def _flock(fd: int) -> bool:
    """Locks an open file and returns True, or returns False if another process has locked it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(pid: int) -> bool:
    """Returns whether a process of this host runs; one that is ending, or that has ended unnoticed, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return Path("/proc/self/stat").exists() is False  # a system without /proc
    return state not in "ZX" and not int(rest[5]) & _PF_EXITING
