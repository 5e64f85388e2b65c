"""A lock has one live owner, and the lock of an owner that has ended is taken over: with real processes."""

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import lock, mirror, storage

HOLDS = """
import sys, time
from pathlib import Path
from msm_jax.foundation import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
# A main process that leaves a worker which ends a second after its parent has.
HAS_WORKER = """
import subprocess, sys, time
from pathlib import Path
from msm_jax.foundation import lock
worker = "import sys, time; sys.stdin.read(); time.sleep(1)"
with lock.hold(Path(sys.argv[1])) as descriptors:
    subprocess.Popen([sys.executable, "-c", worker], stdin=subprocess.PIPE, pass_fds=descriptors)
    print("held", flush=True)
    time.sleep(60)
"""
ELSEWHERE = {"host": "elsewhere", "pid": 7, "since": "then", "token": "t"}
URL = "memory://runs/one"


@contextlib.contextmanager
def process(directory: Path, script: str = HOLDS) -> Iterator[subprocess.Popen[str]]:
    """Runs a process that holds the directory until it is killed."""
    command = [sys.executable, "-c", script, str(directory)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def check_refused(directory: Path | str, words: str, **more: float) -> None:
    """Checks that a directory cannot be held, with a message of one line."""
    with pytest.raises(InputError, match=words) as caught, lock.hold(directory, **more):
        pass
    assert "\n" not in str(caught.value)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life every 20 ms in place of 10 s."""
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.2)


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, emptied afterwards."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def test_a_held_directory_is_refused_with_host_and_process(tmp_path: Path) -> None:
    with process(tmp_path) as holder:
        check_refused(tmp_path, f"{tmp_path}: in use by process {holder.pid} on host {socket.gethostname()} since")


def test_the_lock_of_a_killed_process_is_taken_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with process(tmp_path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        # Not waited for: it is ending, or a zombie.
        with lock.hold(tmp_path):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert f"taken over from process {holder.pid} on host" in caplog.text
    caplog.clear()
    with lock.hold(tmp_path):
        pass
    assert caplog.text == ""


def test_a_run_started_at_once_after_a_kill_waits_for_the_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with process(tmp_path, HAS_WORKER) as holder:
            os.kill(holder.pid, signal.SIGKILL)
            began = time.monotonic()
            with lock.hold(tmp_path):
                assert time.monotonic() - began > 0.9
        assert f"process {holder.pid} has ended; waiting for its worker processes to end" in caplog.text


def test_workers_that_do_not_end_keep_the_lock(tmp_path: Path) -> None:
    with lock.hold(tmp_path) as descriptors:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=descriptors)
    check_refused(tmp_path, "in use by worker processes", patience=0.2)
    child.kill()
    child.wait()
    with lock.hold(tmp_path):
        pass


@pytest.mark.parametrize("clock", [0, -5_000, 5_000])
def test_a_lock_of_another_host_counts_while_it_is_renewed(
    tmp_path: Path, clock: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the clocks of the two hosts say."""
    path, ended = tmp_path / "lock", threading.Event()
    path.write_text(json.dumps(ELSEWHERE))

    def renew() -> None:
        while not ended.wait(0.02):
            os.utime(path, (time.time() + clock,) * 2)

    other = threading.Thread(target=renew)
    other.start()
    check_refused(tmp_path, "in use by process 7 on host elsewhere since then", silence=5)
    ended.set()
    other.join()
    with lock.hold(tmp_path, silence=0.2):
        pass
    assert "taken over from process 7 on host elsewhere" in caplog.text


def test_a_process_whose_lock_was_taken_over_is_asked_to_end(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        with lock.hold(tmp_path):
            time.sleep(0.1)
            assert not asked.is_set()
            (tmp_path / "lock").write_text(json.dumps(ELSEWHERE))
            assert asked.wait(10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "taken over by process 7 on host elsewhere" in caplog.text


def test_a_process_that_lost_a_url_writes_nothing_more_to_it(memory: Any, quick: None, tmp_path: Path) -> None:
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    (tmp_path / "records").touch()
    try:
        with lock.hold(URL):
            mirror.push(tmp_path, f"{URL}/phases", ["records"])
            storage.write_json(f"{URL}.lock", ELSEWHERE)
            assert asked.wait(10)
            with pytest.raises(WorkError, match=f"{URL}: taken over by another process while this one stood still"):
                mirror.push(tmp_path, f"{URL}/phases", ["records"])
            with pytest.raises(WorkError, match="nothing is written to it"):
                mirror.remove(URL, "")
            mirror.push(tmp_path, f"{URL}s", ["records"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads(memory.cat(f"{URL}.lock")) == ELSEWHERE
    storage.remove(f"{URL}.lock")
    with lock.hold(URL):
        mirror.push(tmp_path, URL, ["records"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', '{"host": "a", "since": "b", "pid": "c"}'])
def test_a_damaged_lock_file_is_no_lock(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    with lock.hold(tmp_path), (tmp_path / "lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_directory_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with lock.hold(tmp_path / "new" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path / "new" / "run"):
        (tmp_path / "new" / "run" / "result").touch()
    assert (tmp_path / "new" / "run" / "result").exists()


def test_a_directory_that_cannot_be_written_is_refused() -> None:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # the user "nobody", since root may write everywhere
    try:
        check_refused(directory, f"{directory}/lock: cannot be written .Permission denied.; give another directory")
        check_refused(directory / "new", "cannot be written .Permission denied.")
    finally:
        os.seteuid(user)
        directory.rmdir()


def test_a_url_has_one_owner_and_is_left_as_it_was(memory: Any, quick: None) -> None:
    with lock.hold(URL):
        time.sleep(0.1)
        assert json.loads(memory.cat(f"{URL}.lock"))["beat"] > 0
        check_refused(URL, f"{URL}: in use by process {os.getpid()} on host", silence=5)
    assert not memory.exists(f"{URL}.lock")
    with lock.hold(URL):
        pass


def test_the_lock_of_a_url_is_taken_over_from_an_owner_that_has_ended(
    memory: Any, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = {**ELSEWHERE, "host": socket.gethostname(), "pid": ended.pid}
    for holder, silence in ((ELSEWHERE, 0.1), (here, 60.0)):
        storage.write_json(f"{URL}.lock", holder)
        with lock.hold(URL, silence=silence):
            assert json.loads(memory.cat(f"{URL}.lock"))["pid"] == os.getpid()
        assert f"taken over from process {holder['pid']} on host {holder['host']}" in caplog.text
    storage.write_text(f"{URL}.lock", "{")
    with lock.hold(URL):
        pass


def test_the_children_of_a_killed_owner_keep_the_lock_of_a_url(
    memory: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = {**ELSEWHERE, "pid": ended.pid}
    storage.write_json(f"{URL}.lock", holder)
    monkeypatch.setenv(lock._PASSED_ON, json.dumps([[URL, holder]]))
    with lock.inherited():
        check_refused(URL, f"in use by process {ended.pid} on host elsewhere", silence=5)
        storage.remove(f"{URL}.lock")
        time.sleep(0.1)
    assert not memory.exists(f"{URL}.lock"), "a lock that was released stays so"


def test_of_many_that_want_a_url_at_once_one_gets_it(
    memory: Any, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where all of them find the lock of an owner that has ended."""
    caplog.set_level(logging.CRITICAL)
    storage.write_json(f"{URL}.lock", ELSEWHERE)
    held, refusals = [], []

    def want() -> None:
        try:
            with lock.hold(URL, silence=0.5):
                held.append(1)
                time.sleep(1.5)
        except InputError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refusals) == 7
    assert all(f"in use by process {os.getpid()}" in each for each in refusals)


def test_a_shared_result_is_waited_for_once_and_then_held(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from msm_jax.foundation import lock
with lock.exclusive(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    sys.stdin.readline()
"""
    path = tmp_path / "locks" / "a"
    command = [sys.executable, "-c", script, str(path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdin is not None and holder.stdout.readline() == "held\n"
    waits = []

    def waited() -> None:
        assert holder.stdin is not None
        waits.append(1)
        holder.stdin.write("\n")
        holder.stdin.flush()

    with lock.exclusive(path, waited):
        assert holder.wait(timeout=30) == 0
    assert waits == [1]
    with lock.exclusive(path, waited):
        assert waits == [1]
    for stream in (holder.stdin, holder.stdout):
        stream.close()
