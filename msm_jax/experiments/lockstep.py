"""An experiment on all hosts of a slice: process 0 plans and decides, and every host does the work that it is told.

Phases run on all hosts together. Other nodes need the devices of one host: those that are ready are dealt out to the
hosts, and each runs its share. Only process 0 holds the workdir and writes the report.
"""

import contextlib
import dataclasses
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.console import Console

from msm_jax.checkpoints import store
from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.experiments import worker
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.nodes import execute
from msm_jax.experiments.scheduler import Listener, Task, failure_of, launch_order
from msm_jax.foundation import settings, termination
from msm_jax.foundation.storage import Location
from msm_jax.parallel import distributed
from msm_jax.parallel.hosts import Hosts
from msm_jax.parallel.mesh import MeshConfig


def start(config: ExperimentConfig, workdir: Location, console: Console, kept: Location | None) -> None:
    """Runs the part of this host; see `run.run` for what it raises, on every host.

    Raises:
        InputError: as `check_meshes`, or the workdir or the store is at a URL.
    """
    from msm_jax.experiments import run

    run.refuse_urls(workdir, kept)
    meshes = (*_meshes(config).values(), config.scoring.mesh)
    execute.start(max(mesh.size for mesh in meshes), config.scoring.threads)
    distributed.start()
    with Hosts() as hosts:
        check_meshes(config)
        if hosts.index:
            follow(hosts)
        else:
            run.run(config, workdir, console, store=kept, executor=Lockstep(hosts))
            hosts.first(None)


def _meshes(config: ExperimentConfig) -> dict[str, MeshConfig]:
    return {
        name: settings.build(MeshConfig, settings.plain(fields).get("mesh", {}), f"phases.{name}.mesh")
        for name, fields in config.phases.items()
    }


def check_meshes(config: ExperimentConfig) -> None:
    """Refuses a phase that does not use all devices of the hosts, and evals that need more than those of one host.

    Raises:
        InputError: names the mesh.
    """
    devices, local = jax.device_count(), jax.local_device_count()
    for name, mesh in _meshes(config).items():
        if mesh.size != devices:
            raise InputError(
                f"phases.{name}.mesh has {mesh.size} devices, and the {jax.process_count()} hosts have {devices}; "
                "give it a mesh of all of them"
            )
    if config.scoring.mesh.size > local:
        raise InputError(
            f"scoring.mesh has {config.scoring.mesh.size} devices, and a host has {local}; evals run on one host "
            "each, so give them a smaller mesh"
        )


class Lockstep:
    """The `scheduler.Executor` of process 0."""

    def __init__(self, hosts: Hosts) -> None:
        """Runs tasks on `hosts`, the others of which call `follow`."""
        self._hosts = hosts

    def run(self, tasks: Sequence[Task], listener: Listener) -> None:
        """Runs all tasks; see `Executor.run`."""
        waiting = {task.id: task for task in launch_order(tasks)}
        while waiting:
            ready = [task for task in waiting.values() if not set(task.after) & waiting.keys()]
            together = [task for task in ready if execute.spans_hosts(task.args)]
            turn = together[:1] or ready
            for task in turn:
                listener.started(task.id)
            try:
                told = self._hosts.first([dataclasses.asdict(task) for task in turn])
                events = _turn(self._hosts, told, listener)
            except (InputError, WorkError, Preempted):
                for task in turn:
                    listener.ended(task.id, 0.0, failed=True)
                raise
            for name in [task.id for task in turn]:
                event = events.get(name)
                done = event is not None and event["event"] == "done"
                listener.ended(name, event["seconds"] if event and done else 0.0, failed=not done)
                if done:
                    del waiting[name]
            failed = [event for event in events.values() if event["event"] != "done"]
            if failed:
                raise failure_of(failed[0])


def follow(hosts: Hosts) -> None:
    """Does what process 0 says until the experiment is complete.

    Raises:
        InputError, WorkError, Preempted: a host has failed.
    """
    while (turn := hosts.first()) is not None:
        failed = [event for event in _turn(hosts, turn, None).values() if event["event"] != "done"]
        if failed:
            raise failure_of(failed[0])


def _turn(hosts: Hosts, tasks: Sequence[Mapping[str, Any]], listener: Listener | None) -> dict[str, dict[str, Any]]:
    """Runs one phase on all hosts, or this host's share of other nodes; returns how each task has ended, on any host.

    Raises:
        Preempted: a host was told to stop before it began.
    """
    if distributed.told_to_stop():
        raise Preempted("stopped by a signal; run the same command again to continue")

    def send(event: dict[str, Any]) -> None:
        if listener is not None:
            listener.progressed(event["id"], event["progress"])
            listener.tick()

    ended = []
    if execute.spans_hosts(tasks[0]["args"]):
        ended.append(worker.run(tasks[0], send, hosts))
        if ended[0]["event"] != "done":
            # The other hosts may wait for this one in a collective; `Hosts` ends them.
            raise failure_of(ended[0])
    else:
        # SIGTERM is JAX's, which tells the loops of phases; `supervisor` sends the other signal beside it.
        with contextlib.ExitStack() as stack:
            stack.enter_context(termination.raising(signal.SIGUSR1))
            stack.enter_context(store.of_this_host())
            for task in tasks[hosts.index :: hosts.count]:
                ended.append(worker.run(task, send))
                if ended[-1]["event"] != "done":
                    break
    found: dict[str, dict[str, Any]] = {}
    for event in (event for events in hosts.gather(ended) for event in events):
        if event["id"] not in found or found[event["id"]]["event"] == "done" != event["event"]:
            found[event["id"]] = event
    return found
