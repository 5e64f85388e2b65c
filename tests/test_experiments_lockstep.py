"""An experiment on several hosts of a slice: processes on this machine, with a simulated device each."""

import re
import signal
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
from msm_jax.parallel import distributed

SMALL = CONFIG.replace('"threads": 1,', '"threads": 1, "mesh": {"data": 2},').replace("(0, 1)", "(0,)")
# The greedy eval compiles as much as all else; the long test has one.
SMALL = re.sub(r' *"prefer_greedy".*\n', "", SMALL)


def experiment(*arguments):
    return ["-m", "msm_jax.experiment", *arguments]


def addresses(workdir):
    """The names of all results, which end with the hash of what decides them."""
    found = [*workdir.glob("tokenizers/*"), *workdir.glob("phases/*"), *workdir.glob("evals/*/*-*.json")]
    return sorted(path.relative_to(workdir) for path in found)


@pytest.mark.slow
def test_two_processes_report_what_one_with_as_many_devices_does(here):
    (here / "config.py").write_text(SMALL)
    status, errors = finish(start(experiment("--config=config.py", "--workdir=two"), here))
    assert status == [0, 0], errors
    code, _, error = command(here, "msm_jax.experiment", "--config=config.py", "--workdir=one")
    assert (code, error) == (0, "")
    assert report_without_times(here / "two" / "report.json") == report_without_times(here / "one" / "report.json")
    # Every result has the address that it has on one process.
    assert addresses(here / "two") == addresses(here / "one")


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
