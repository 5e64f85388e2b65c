"""A run that is moved to other devices, hosts and micro-batches reads the same data and has the same losses."""

import dataclasses
import hashlib
import itertools
import os
import shutil
import sys

import elastic_hosts
import pytest
import several_hosts
from conftest import ROOT
from test_training_loop import files as files  # a fixture
from test_training_loop import phase, records

from msm_jax.checkpoints import manifest
from msm_jax.foundation import settings
from msm_jax.foundation.child_process import ChildProcess
from msm_jax.parallel.mesh import MeshConfig

ROWS = 16
TOLERANCE = 1e-5
# Where a run of the long table is moved, in steps.
FIRST, EACH = 5, 20


@dataclasses.dataclass(frozen=True)
class Layout:
    """Devices that a run may have: a mesh over all devices of some processes, and how a batch is cut on it."""

    mesh: MeshConfig
    micro_batches: int
    processes: int = 1


UNMOVED = Layout(MeshConfig(), 1)
LAYOUTS = {
    "eight": Layout(MeshConfig(2, 2, 2), 1),
    "four": Layout(MeshConfig(1, 2, 2), 4),
    "hosts": Layout(MeshConfig(2, 4, 1), 2, processes=2),
    "one": Layout(MeshConfig(), 8),
}


def fields(files, layout, steps):
    """The config of a tiny phase on a layout, as JSON."""
    config = phase(files, steps=steps, batch_rows=ROWS, eval_every=0)
    config = dataclasses.replace(config, mesh=layout.mesh, micro_batches=layout.micro_batches)
    return settings.to_json(config)


def losses(workdir):
    """{step: loss} of a run."""
    return {record["step"]: record["loss"] for record in records(workdir)}


def whole_batches(*replies):
    """{step: SHA-256} of the batches that the processes of a layout have read together."""
    found = {}
    for step in replies[0]["batches"]:
        rows = {}
        for reply in replies:
            for row, sha256 in reply["batches"][step].items():
                assert rows.setdefault(row, sha256) == sha256
        assert sorted(map(int, rows)) == list(range(ROWS))
        found[int(step)] = hashlib.sha256("".join(rows[str(row)] for row in range(ROWS)).encode()).hexdigest()
    return found


def worst(got, want):
    """The greatest difference between the losses of the same steps."""
    return max(abs(got[step] - want[step]) for step in want)


def test_another_mesh_and_other_micro_batches_continue_with_the_same_data_state_and_losses(files, tmp_path):
    """8 simulated devices, then 4, then 1."""
    alone = elastic_hosts.continued(fields(files, UNMOVED, 12), str(tmp_path / "alone"), 12)
    batches, saved = {}, None
    for layout, stop in ((LAYOUTS["eight"], 4), (LAYOUTS["four"], 8), (UNMOVED, 12)):
        found = elastic_hosts.continued(fields(files, layout, 12), str(tmp_path / "moved"), stop)
        assert saved in (None, found["restored"])
        saved = found["saved"]
        batches |= whole_batches(found)
    assert batches == whole_batches(alone) and len(set(batches.values())) == 12
    assert worst(losses(tmp_path / "moved"), losses(tmp_path / "alone")) < TOLERANCE
    continued = manifest.read(tmp_path / "moved").continued
    assert [(each["step"], each["mesh"]) for each in continued] == [
        (4, {"data": 1, "fsdp": 2, "tensor": 2}), (8, {"data": 1, "fsdp": 1, "tensor": 1}),
    ]  # fmt: skip


class Processes:
    """The running processes of a layout."""

    def __init__(self, layout, log):
        self._children = []
        for variables in several_hosts.named(layout.processes) if layout.processes > 1 else [{}]:
            # Compiled as for users: rounding is what is measured.
            environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **variables}
            devices = layout.mesh.size
            command = [sys.executable, elastic_hosts.__file__, str(devices)]
            with log.open("ab") as file:
                self._children.append(ChildProcess(command, file, environment))

    def ask(self, config, workdir, stop):
        """What each process answers to one job."""
        for child in self._children:
            child.send({"config": config, "workdir": str(workdir), "stop": stop})
        return [child.receive(300) for child in self._children]

    def end(self):
        for child in self._children:
            child.kill()


@pytest.fixture
def processes(tmp_path):
    """The processes of every layout."""
    running = {name: Processes(layout, tmp_path / f"{name}.log") for name, layout in LAYOUTS.items()}
    yield running
    for each in running.values():
        each.end()


@pytest.mark.long
def test_a_run_moves_between_8_devices_4_two_hosts_of_4_and_1_in_every_order(files, processes, tmp_path):
    steps = FIRST + EACH * (len(LAYOUTS) - 1)
    runs, worst_by = tmp_path / "runs", {}
    (alone,) = processes["one"].ask(fields(files, UNMOVED, steps), runs / "alone", steps)
    batches, expected = whole_batches(alone), losses(runs / "alone")
    assert sorted(batches) == list(range(1, steps + 1))
    saved = {}
    for order in itertools.chain.from_iterable(itertools.permutations(LAYOUTS, n + 1) for n in range(len(LAYOUTS))):
        before, workdir = order[:-1], runs / "-".join(order)
        if before:
            shutil.copytree(runs / "-".join(before), workdir)
        stop = FIRST + EACH * len(before)
        replies = processes[order[-1]].ask(fields(files, LAYOUTS[order[-1]], steps), workdir, stop)
        for step, sha256 in whole_batches(*replies).items():
            assert sha256 == batches[step], (order, step)
        for reply in replies:
            assert reply["restored"] == saved.get(before, reply["restored"]), order
        saved[order] = replies[0]["saved"]
        got = losses(workdir)
        assert sorted(got) == list(range(1, stop + 1))
        worst_by[order] = worst(got, {step: loss for step, loss in expected.items() if step <= stop})
    for order, difference in worst_by.items():
        print(f"{' -> '.join(order)}: {difference:.1e}")
    assert len(worst_by) == 64 and max(worst_by.values()) < TOLERANCE
