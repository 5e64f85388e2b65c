"""An experiment on several hosts of a slice: processes on this machine, with a simulated device each."""

import re
import signal
import sys
import textwrap
import time

import pytest
from conftest import ROOT
from experiments_small import fields
from several_hosts import finish, start
from test_experiments_end_to_end import CONFIG, command, report_without_times
from test_experiments_end_to_end import here as here  # a fixture

from msm_jax.errors import InputError
from msm_jax.experiments import lockstep
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings
from msm_jax.parallel import distributed, supervisor

SMALL = CONFIG.replace('"threads": 1,', '"threads": 1, "mesh": {"data": 2},').replace("(0, 1)", "(0,)")
# The greedy eval compiles as much as all else; the long test has one.
SMALL = re.sub(r' *"prefer_greedy".*\n', "", SMALL)


def experiment(*arguments):
    return ["-m", "msm_jax.experiment", *arguments]


@pytest.mark.slow
def test_two_processes_report_what_one_with_as_many_devices_does(here):
    (here / "config.py").write_text(SMALL)
    status, errors = finish(start(experiment("--config=config.py", "--workdir=two"), here))
    assert status == [0, 0], errors
    code, _, error = command(here, "msm_jax.experiment", "--config=config.py", "--workdir=one")
    assert (code, error) == (0, "")
    assert report_without_times(here / "two" / "report.json") == report_without_times(here / "one" / "report.json")
    # Every result has the address that it has on one process.
    assert command(here, "msm_jax.experiment", "--config=config.py", "--workdir=two")[1].startswith("nothing to do")


TALK = """
import logging, sys, time
import jax
from msm_jax import cli
from msm_jax.errors import InputError, WorkError
from msm_jax.parallel import distributed
from msm_jax.parallel.hosts import Hosts

def main():
    with Hosts() as hosts:
        assert hosts.first("plan" if hosts.index == 0 else None) == "plan"
        assert hosts.gather(hosts.index) == [0, 1]
        if hosts.index == int(sys.argv[1]):
            raise {"InputError": InputError, "WorkError": WorkError}[sys.argv[2]]("no\\nspace")
        time.sleep(60)  # as in a collective that never ends

jax.config.update("jax_platforms", "cpu")
distributed.start()
sys.argv, given = sys.argv[:1], sys.argv
cli.parse_flags = lambda argv: sys.argv.__setitem__(slice(None), given)
cli.run(main)
"""


@pytest.mark.parametrize(
    ("words", "expected", "line"),
    [
        (["1", "InputError"], 2, "refused: process 1 of 2: no space"),
        (["0", "WorkError"], 1, "failed: no space"),
    ],
)
def test_an_error_on_one_host_ends_all_with_its_status_and_process_0_says_why(tmp_path, words, expected, line):
    (tmp_path / "talk.py").write_text(TALK)
    began = time.monotonic()
    status, errors = finish(start(["talk.py", *words], tmp_path))
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
# As JAX 0.10.2 writes them; see `test_a_process_that_is_killed_...`, where it does.
SILENT = "tasks are unhealthy (stopped sending heartbeats):\n{}\nThe tasks have crashed."
GONE = "UNAVAILABLE: Failed to send RPC to coordination service."
FATAL = "F1129 06:45:52.745423 26350 client.h:80] Terminating process because the JAX distributed service detected "


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (SILENT.format("3"), "preempted: process 3 of 16 died, or its host is out of reach"),
        (SILENT.format("3,11"), "preempted: process 3 and 11 of 16 died, or its host is out of reach"),
        (GONE, "preempted: process 0 of 16 (tpu-0:8482) died, or its host is out of reach"),
    ],
)
def test_the_end_by_jax_becomes_a_line_that_names_the_dead_process_and_status_75(
    tmp_path, monkeypatch, capsys, words, line
):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "tpu-0:8482")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "dies.py").write_text(DIES.format(words=f"{FATAL}fatal errors. {words}"))
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        assert supervisor.run([sys.executable, str(tmp_path / "dies.py")], 16) == 75
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err == f"at work\n{line}; run the same command again to continue\n"


@pytest.mark.parametrize(
    ("phase", "scoring", "words"),
    [
        (2, 1, "phases.pretrain.mesh has 2 devices, and the 1 hosts have 8; give it a mesh of all of them"),
        (8, 16, "scoring.mesh has 16 devices, and a host has 8"),
    ],
)
def test_meshes_that_do_not_fit_the_hosts_are_refused(phase, scoring, words):
    given = fields(scoring={"mesh": {"data": scoring}})
    for each in given["phases"].values():
        each["mesh"] = {"fsdp": phase}
    with pytest.raises(InputError, match=words):
        lockstep.check_meshes(settings.build(ExperimentConfig, given))


@pytest.mark.long
@pytest.mark.parametrize("disturbance", ["none", "SIGTERM to one", "kill -9 of process 1", "kill -9 of process 0"])
def test_cheese_mini_on_two_hosts_ends_as_on_one_whatever_happens(tmp_path, disturbance):
    """Prints what is asserted, and the seconds until the other process had ended."""
    write = textwrap.dedent(
        """
        import runpy
        def get_config():
            config = runpy.run_path({file!r})["get_config"]("tiny")
            for phase in config.phases.values():
                phase.mesh = {{"data": 2}}
                phase.checkpoint_every = 20
            return config
        """
    )
    (tmp_path / "config.py").write_text(write.format(file=str(ROOT / "configs/experiments/cheese_mini.py")))
    words = experiment("--config=config.py", "--workdir=two")
    if disturbance != "none":
        hosts = start(words, tmp_path)
        while not list(tmp_path.glob("two/phases/*/checkpoints/20")):
            assert [host.poll() for host in hosts] == [None, None], finish(hosts)
            time.sleep(0.1)
        began = time.monotonic()
        hurt = hosts[0 if disturbance.endswith("0") else 1]
        hurt.send_signal(signal.SIGTERM if "SIGTERM" in disturbance else signal.SIGKILL)
        status, errors = finish(hosts)
        print(f"{disturbance}: statuses {status} after {time.monotonic() - began:.1f} s: {errors[0].splitlines()[-1]}")
        expected = [75 if host is not hurt or "SIGTERM" in disturbance else -signal.SIGKILL for host in hosts]
        assert status == expected, errors
        assert time.monotonic() - began < 2 * distributed.HEARTBEAT_SECONDS
        if "SIGTERM" not in disturbance:
            named = 1 - hosts.index(hurt)
            assert re.match(rf"preempted: process {1 - named} of 2 .*died", errors[named].splitlines()[-1])
    status, errors = finish(start(words, tmp_path))
    assert status == [0, 0], errors
    code, _, error = command(tmp_path, *words[1:-1], "--workdir=one")
    assert (code, error) == (0, "")
    two, one = (report_without_times(tmp_path / name / "report.json") for name in ("two", "one"))
    assert two == one
