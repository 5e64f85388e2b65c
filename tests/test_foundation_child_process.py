"""A child process answers JSON lines, and its end, its silence and a full pipe are told apart."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from msm_jax.foundation.child_process import ChildProcess

PROGRAM = """
import os, time
from msm_jax.foundation import child_process
channel = child_process.reserve_stdout()
print("this goes to standard error")
for request in child_process.requests():
    if request == "die":
        os._exit(7)
    if request == "sleep":
        time.sleep(60)
    child_process.reply(channel, {"echo": request})
"""


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    process = ChildProcess([sys.executable, "-c", PROGRAM], stderr=subprocess.DEVNULL)
    yield process
    process.kill()


def test_each_message_is_answered(child: ChildProcess) -> None:
    for message in ("é\n", {"a": [1]}, "x" * 300_000):
        child.send(message)
        assert child.receive(60) == {"echo": message}
    assert child.received() == ([], False)


def test_silence_and_the_end_are_told_apart(child: ChildProcess) -> None:
    child.send("sleep")
    with pytest.raises(TimeoutError):
        child.receive(0.1)
    assert child.kill() == -9


def test_the_last_messages_of_a_child_that_ends_are_kept(child: ChildProcess) -> None:
    child.send("one")
    child.send("die")
    assert child.receive(60) == {"echo": "one"}
    with pytest.raises(EOFError):
        child.receive(60)
    assert child.received() == ([], True)
    assert child.kill() == 7
    with pytest.raises((BrokenPipeError, ValueError)):
        child.send("two")


def test_what_has_arrived_is_returned_without_waiting(child: ChildProcess) -> None:
    child.send("one")
    child.send("die")
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    assert child.received() == ([{"echo": "one"}], True)
