"""What several processes of a run tell each other, and what one says when another has died."""

import signal
import sys
import time

import pytest
from conftest import ROOT
from several_hosts import finish, start

from msm_jax.parallel import supervisor

TALK = """
import logging, sys, time
import jax
from msm_jax import cli
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation.termination import Terminated
from msm_jax.parallel import distributed
from msm_jax.parallel.hosts import Hosts

def main():
    with Hosts() as hosts:
        assert hosts.first("plan" if hosts.index == 0 else None) == "plan"
        assert hosts.gather(hosts.index) == [0, 1]
        if hosts.index == int(sys.argv[1]):
            errors = {"InputError": InputError, "WorkError": WorkError, "ValueError": ValueError}
            time.sleep(float(len(sys.argv) > 3))
            if sys.argv[2] == "Terminated":
                raise InputError("data.jsonl cannot be read") from Terminated()
            raise errors[sys.argv[2]]("no\\nspace")
        if len(sys.argv) > 3:
            raise WorkError(f"cannot be saved: {sys.argv[3]}: connection closed")
        time.sleep(60)  # as in a collective that never ends

jax.config.update("jax_platforms", "cpu")
distributed.start()
sys.argv, given = sys.argv[:1], sys.argv
cli.parse_flags = lambda argv: sys.argv.__setitem__(slice(None), given)
cli.run(main)
"""


def test_an_error_on_one_host_ends_all_with_its_status_and_process_0_says_why(tmp_path):
    (tmp_path / "talk.py").write_text(TALK)
    cases = [
        (["1", "InputError"], 2, "refused: process 1 of 2: no space"),
        (["0", "WorkError"], 1, "failed: no space"),
        # What a signal interrupts may look like a fault of the input.
        (["1", "Terminated"], 75, "preempted: process 1 of 2: stopped by SIGTERM"),
        # A defect, which the other host first meets as a connection that is closed.
        (["1", "ValueError", "UNKNOWN"], 1, "failed: process 1 of 2: no space"),
    ]
    began = time.monotonic()
    running = [start(["talk.py", *words], tmp_path) for words, _, _ in cases]
    for hosts, (_, expected, line) in zip(running, cases, strict=True):
        status, errors = finish(hosts)
        assert status == [expected, expected], errors
        assert errors[0].splitlines()[-1] == line
    assert time.monotonic() - began < 50


DIES = """
import os, sys
from msm_jax.parallel import supervisor
assert supervisor.is_child()
print("at work", file=sys.stderr)
print({words!r}, file=sys.stderr, flush=True)
os.abort()
"""
# As JAX 0.10.2 writes them; test_training_hosts.py has it do so.
SILENT = "tasks are unhealthy (stopped sending heartbeats):\n{}\nThe tasks have crashed."
GONE = "UNAVAILABLE: Failed to send RPC to coordination service."
NOT_HEARD = "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/"
FATAL = "F1129 06:45:52.745423 26350 client.h:80] Terminating process because the JAX distributed service detected "

WORRY = "E1129 06:45:52.745423 26350 coordination_service_agent.cc:289] Polled an error"


@pytest.fixture
def dies(tmp_path, monkeypatch):
    """The status that a supervisor returns for a process that writes some words and ends by abort()."""
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "tpu-0:8482")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(words):
        (tmp_path / "dies.py").write_text(DIES.format(words=words))
        return supervisor.run([sys.executable, str(tmp_path / "dies.py")], 16)

    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (SILENT.format("3"), "preempted: process 3 of 16 died, or its host is out of reach"),
        (SILENT.format("3,11"), "preempted: process 3 and 11 of 16 died, or its host is out of reach"),
        (GONE, "preempted: process 0 of 16 (tpu-0:8482) died, or its host is out of reach"),
        (f"{NOT_HEARD}Heartbeat", "preempted: process 0 of 16 (tpu-0:8482) died, or its host is out of reach"),
        (f"{NOT_HEARD}RegisterTask", "preempted: not all of 16 processes have come within 300 s"),
    ],
)
def test_the_end_by_jax_becomes_a_line_that_names_the_dead_process_and_status_75(dies, capsys, words, line):
    assert dies(f"{WORRY}\n{FATAL}fatal errors. {words}") == 75
    assert capsys.readouterr().err == f"at work\n{line}; run the same command again to continue\n"


def test_another_end_and_worries_that_pass_are_shown_as_they_are(dies, capsys):
    words = f"{WORRY}\nmore of it\n06:45:53 step 3\nF1129 06:45:54.745423 26350 literal.cc:80] Check failed: x"
    assert dies(words) == 134
    assert capsys.readouterr().err == f"at work\n{words}\n"


WAITS = """
import signal, sys, time
from msm_jax.parallel import supervisor
if supervisor.is_child():
    signal.signal(signal.SIGTERM, lambda *_: print("asked", file=sys.stderr, flush=True))
    print("at work", file=sys.stderr, flush=True)
    while True:
        time.sleep(1)
sys.exit(supervisor.run([sys.executable, *sys.orig_argv[1:]], 2))
"""


def test_a_first_signal_reaches_the_command_and_a_second_one_ends_it_at_once(tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    (host,) = start(["waits.py"], tmp_path, count=1)
    for line, number in (("at work", signal.SIGINT), ("asked", signal.SIGTERM)):
        assert host.stderr.readline() == f"{line}\n"
        assert host.poll() is None
        host.send_signal(number)
    assert host.wait(10) == 128 + signal.SIGKILL
