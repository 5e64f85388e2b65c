"""The train command on two hosts: preference optimisation ends as in one process, whatever befalls a host."""

import json
import re
import shutil
import signal
import time

import pytest
from several_hosts import finish, start
from test_training_loop import files as files  # a fixture
from test_training_loop import leaves, phase, records
from test_training_lora import base as base  # a fixture
from test_training_preference import paired as paired  # a fixture
from test_training_preference import preferring

from msm_jax.checkpoints import store
from msm_jax.foundation import settings
from msm_jax.parallel import distributed
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.training import loop

TRAIN = ["-m", "msm_jax.train", "--config=config.py", "--workdir=two"]
READ = """
import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.load(open("config.json")))
"""


def write(config, directory):
    """The config of a phase as a file for the command."""
    (directory / "config.py").write_text(READ)
    (directory / "config.json").write_text(json.dumps(settings.to_json(config)))


def disturbed(directory, number, how, past):
    """Sends a signal to a process once a checkpoint beyond a step is there; returns the step of the newest one then."""
    hosts = start(TRAIN, directory)
    while (newest := max(store.all_steps(directory / "two"), default=0)) <= past:
        assert [host.poll() for host in hosts] == [None, None], finish(hosts)
        time.sleep(0.02)
    hosts[number].send_signal(how)
    began = time.monotonic()
    status, errors = finish(hosts)
    took = time.monotonic() - began
    other = 1 - number
    assert status[other] == 75, errors
    line = errors[other].splitlines()[-1]
    assert line.endswith("run the same command again to continue")
    if how == signal.SIGTERM:
        assert status[number] == 75, errors
        assert re.match(r"preempted: tiny stopped after step \d+ of", line)
    else:
        # Where the machine stands still for a while, the other process is silent too.
        named = rf"preempted: process (\d and )?{number}( and \d)? of 2 .*died, or its host is out of reach;"
        assert re.match(named, line)
        assert not re.search(r"^[EF]\d{4} |Traceback", errors[other], re.MULTILINE), errors[other]
    print(f"{how.name} to process {number}: {took:.1f} s: {line}")
    assert took < 2 * distributed.HEARTBEAT_SECONDS
    return newest


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals",
    [
        [(0, signal.SIGKILL)],
        pytest.param([(1, signal.SIGKILL), (0, signal.SIGTERM)], marks=pytest.mark.long),
    ],
)
def test_preference_optimisation_ends_as_in_one_process_though_hosts_are_killed_and_stopped(
    files, base, paired, tmp_path, signals
):
    """The parent is gone once its log-probabilities are there."""
    parent = shutil.copytree(base.parent.parent, tmp_path / "parent")
    changes = {"steps": 12, "eval_every": 6, "checkpoint_every": 1, "mesh": MeshConfig(data=2), "threads": 1}
    config = preferring(files, parent, paired, tmp_path / "one", **changes)
    one = loop.train(config, tmp_path / "one").checkpoint
    write(preferring(files, parent, paired, tmp_path / "two", **changes), tmp_path)
    past = 0
    for number, how in signals:
        past = disturbed(tmp_path, number, how, past)
        shutil.rmtree(parent, ignore_errors=True)
    status, errors = finish(start(TRAIN, tmp_path))
    assert status == [0, 0], errors
    assert [path.name for path in (tmp_path / "two" / "cache").glob("*reference-*")] == [
        path.name for path in (tmp_path / "one" / "cache").glob("*reference-*")
    ]
    assert records(tmp_path / "two") == records(tmp_path / "one")
    ours, theirs = leaves(store.latest(tmp_path / "two")), leaves(one)
    assert {name: each.tobytes() for name, each in ours.items()} == {n: each.tobytes() for n, each in theirs.items()}


def test_bad_data_on_one_host_is_refused_by_both(files, tmp_path):
    write(phase(files, mesh=MeshConfig(data=2)), tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": ""}\n')
    switch = READ.replace("import json", "import json, os").replace("return ConfigDict", "config = ConfigDict")
    (tmp_path / "config.py").write_text(
        f'{switch}    if os.environ["JAX_PROCESS_ID"] == "1":\n        config.data.sources.web.path = "bad.jsonl"\n'
        "    return config\n"
    )
    status, errors = finish(start(TRAIN, tmp_path))
    assert status == [2, 2], errors
    ends = [error.splitlines()[-1] for error in errors]
    assert ends[0].replace("process 1 of 2: ", "") == ends[1] and "bad.jsonl:2: " in ends[1]
