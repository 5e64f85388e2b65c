"""Runs tasks on a Ray cluster, which decides where each one runs and starts it again if its machine is lost.

Ray (https://docs.ray.io) is an extra: `pip install -r requirements-ray.txt`. All machines need this checkout, the
workdir and the store at the same paths, on a file system that they share. A task whose machine or process is lost
starts again elsewhere, at most `RETRIES` times, and continues from its newest checkpoint.
"""

import contextlib
import dataclasses
import importlib
import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.experiments import worker
from msm_jax.experiments.scheduler import STOP_SECONDS, TICK_SECONDS, Listener, Signals, Task, failure_of, launch_order
from msm_jax.parallel import backend

RETRIES = 10
_REPORT_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
# The arguments of the set-up of this process, if it is one of Ray's that has run a task.
_prepared: list[tuple[str, int, int]] = []


@dataclasses.dataclass(frozen=True)
class Machines:
    """What the machines of a cluster offer: each one's {resource: amount}, such as CPU, GPU and TPU."""

    nodes: Sequence[Mapping[str, float]]

    def most(self, resource: str) -> int:
        """Returns the most of a resource that one machine has."""
        return int(max((node.get(resource, 0.0) for node in self.nodes), default=0.0))

    @property
    def accelerator(self) -> str:
        """The accelerator that phases and evals run on, "TPU" or "GPU"; "" where no machine has one."""
        return next((name for name in ("TPU", "GPU") if self.most(name)), "")

    @property
    def slots(self) -> int:
        """How many tasks of one core, or of one accelerator, run side by side."""
        return int(sum(node.get(self.accelerator or "CPU", 0.0) for node in self.nodes))

    def needs(self, task: Task) -> dict[str, Any]:
        """Returns Ray's options for what a task occupies.

        On CPUs it is as many cores as the task keeps busy, at most those of the largest machine. A task on accelerators
        has a process of its own, since a process keeps what it has taken.

        Raises:
          InputError: no machine has as many accelerators as the task's mesh has devices.
        """
        if not self.accelerator:
            return {"num_cpus": min(task.slots, max(1, self.most("CPU")))}
        if task.devices > self.most(self.accelerator):
            raise InputError(
                f"{task.id}: its mesh has {task.devices} devices, and the largest machine of the cluster has "
                f"{self.most(self.accelerator)} of {self.accelerator}; give the phase a smaller mesh"
            )
        own = {"num_gpus": task.devices} if self.accelerator == "GPU" else {"resources": {"TPU": task.devices}}
        return {"num_cpus": 1, "max_calls": 1, **own}


class RayExecutor:
    """A `scheduler.Executor` on a Ray cluster; to be used as a context manager, in the main thread."""

    def __init__(self, address: str, setup: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Connects to nothing yet.

        Args:
          address: of the cluster, as `ray.init` takes it; "" for the one that this machine belongs to.
          setup: "module:function" that a new process calls with (devices, threads) of its first task.
          environment: variables of the processes that run tasks.
        """
        self._address = address
        self._setup = setup
        self._environment = dict(environment or {})
        self._signals = Signals()

    def __enter__(self) -> "RayExecutor":
        """Connects to the cluster, and handles SIGINT and SIGTERM from here on.

        Raises:
          InputError: Ray is not installed, or no cluster answers.
        """
        # Nothing is reported to Ray's makers unless the user's environment says so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise InputError(
                "--executor=ray needs Ray; install it with pip install -r requirements-ray.txt"
            ) from error
        self._ray = ray
        try:
            _knock(self._address)
            ray.init(self._address or "auto", log_to_driver=False, logging_level="error")
        except (OSError, ValueError, RuntimeError) as error:
            where = f"at {self._address}" if self._address else "on this machine"
            raise InputError(
                f"--executor=ray: no Ray cluster answers {where}; start one with `ray start --head`, "
                "or give --executor=ray:ADDRESS"
            ) from error
        with contextlib.ExitStack() as connection:
            connection.callback(ray.shutdown)
            self.machines = Machines([node["Resources"] for node in ray.nodes() if node["Alive"]])
            if self.on_cpu:
                self._environment["JAX_PLATFORMS"] = "cpu"
            # On this machine, so that it is lost with no other one.
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            actor = ray.remote(num_cpus=0, scheduling_strategy=here, runtime_env={"env_vars": self._environment})
            self._channel = actor(Channel).remote()
            connection.enter_context(self._signals)
            self._connection = connection.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leaves the cluster, which ends what still runs of this experiment, and restores the signal handlers."""
        self._connection.close()

    @property
    def on_cpu(self) -> bool:
        """Whether the cluster has no accelerators."""
        return not self.machines.accelerator

    @property
    def slots(self) -> int:
        """How many tasks of one core, or of one accelerator, run side by side."""
        return self.machines.slots

    def run(self, tasks: Sequence[Task], listener: Listener) -> None:
        """Runs all tasks; see `scheduler.Executor.run`. Raises WorkError too if Ray does not answer any more.

        A task that began less than `TICK_SECONDS` before a failure was noticed may be interrupted like one that waits.
        """
        try:
            self._run(tasks, listener)
        except self._ray.exceptions.RayError as error:
            raise WorkError(
                f"Ray does not answer any more: {_told(error)}; see to the cluster, and run the same command again to "
                "continue"
            ) from error

    def _run(self, tasks: Sequence[Task], listener: Listener) -> None:
        futures: dict[Any, Task] = {}
        begun: dict[str, int] = {}
        failure: Exception | None = None
        needs = {task.id: self.machines.needs(task) for task in tasks}
        for task, after in _in_order(tasks):
            made = {each.id: future for future, each in futures.items()}
            futures[self._submit(task, needs[task.id], [made[name] for name in after])] = task
        while futures:
            if self._signals.count:
                self._stop(futures, listener)
                raise Preempted("stopped by a signal; run the same command again to continue")
            ready, _ = self._ray.wait(list(futures), num_returns=len(futures), timeout=TICK_SECONDS)
            self._hear(listener, begun, {task.id for task in futures.values()})
            for future in ready:
                task = futures.pop(future)
                found = self._result(future, task, listener, begun)
                if found is not None and failure is None:
                    failure = found
                    for other, each in futures.items():
                        if each.id not in begun:
                            self._ray.cancel(other)
            listener.tick()
        if failure is not None:
            raise failure

    def _submit(self, task: Task, needs: Mapping[str, Any], after: Sequence[Any]) -> Any:
        # A process of Ray's has its environment for life. So tasks with other devices or threads get other processes.
        environment = {**backend.HUGE_PAGES, **self._environment, "MSM_JAX_WORKER": f"{task.devices},{task.threads}"}
        remote = self._ray.remote(
            max_retries=RETRIES, name=task.id, runtime_env={"env_vars": environment}, **needs
        )(execute)
        message = {"id": task.id, "call": task.call, "args": task.args, "directory": os.getcwd()}
        return remote.remote(message, self._setup, task.devices, task.threads, self._channel, *after)

    def _hear(self, listener: Listener, begun: dict[str, int], live: set[str]) -> None:
        """Passes on what tasks have said since the last call."""
        for event in self._ray.get(self._channel.take.remote()):
            name = event["id"]
            if name not in live:
                continue
            if event["event"] == "started":
                begun[name] = begun.get(name, 0) + 1
                if begun[name] > 1:
                    listener.say(f"{name}: its machine or process was lost; it continues elsewhere")
                else:
                    listener.started(name)
            elif name in begun:
                listener.progressed(name, event["progress"])

    def _result(self, future: Any, task: Task, listener: Listener, begun: dict[str, int]) -> Exception | None:
        """Tells the listener how a task ended; returns the failure, None if there is none."""
        try:
            event = self._ray.get(future)
        except self._ray.exceptions.TaskCancelledError:
            event = {"event": "skipped"}
        except self._ray.exceptions.RayError as error:
            if task.id not in begun:
                # It waited for one that was lost for good.
                return None
            event = {"event": "failed", "kind": "WorkError", "message": _told(error)}
        for line in event.get("lines", ()):
            listener.say(line)
        if event["event"] == "skipped":
            if task.id in begun:
                listener.ended(task.id, 0.0, failed=True)
            return None
        if task.id not in begun:
            listener.started(task.id)
        done = event["event"] == "done"
        listener.ended(task.id, event.get("seconds", 0.0), failed=not done)
        return None if done else failure_of({**event, "id": task.id})

    def _stop(self, futures: Mapping[Any, Task], listener: Listener) -> None:
        """Cancels all tasks, which interrupts those that run: phases save a checkpoint first."""
        signals = self._signals.count
        listener.say("stopping: running phases save a checkpoint first; a second signal ends them at once")
        for future in futures:
            self._ray.cancel(future)
        left, deadline = list(futures), time.monotonic() + STOP_SECONDS
        while left and time.monotonic() < deadline and self._signals.count == signals:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=TICK_SECONDS)
        for future in left:
            self._ray.cancel(future, force=True)


class Channel:
    """An actor through which tasks tell how far they are."""

    def __init__(self) -> None:
        """Holds nothing at first."""
        self._events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        """Keeps an event."""
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """Returns the events since the last call."""
        events, self._events = self._events, []
        return events


def execute(
    task: dict[str, Any], setup: str, devices: int, threads: int, channel: Any, *after: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs one task in a process of Ray's and returns how it ended, an event as in `worker`.

    Args:
      task: its "id", "call" and "args", and the "directory" to which relative paths refer.
      setup: "module:function", called with `devices` and `threads` before the first task of the process; "" for none.
      devices: of the process.
      threads: of the process.
      channel: takes its progress.
      after: how the tasks ended that it waited for. It does not run unless all of them are done.
    """
    if any(event["event"] != "done" for event in after):
        return {"event": "skipped"}
    channel.put.remote({"event": "started", "id": task["id"]})
    try:
        os.chdir(task["directory"])
    except OSError as error:
        message = f"{socket.gethostname()} has no {task['directory']} ({error.strerror}); share it with all machines"
        return {"event": "failed", "kind": "WorkError", "message": message}
    said = 0.0

    def send(event: dict[str, Any]) -> None:
        nonlocal said
        if "progress" in event and "note" not in event["progress"] and time.monotonic() - said < _REPORT_SECONDS:
            return
        said = time.monotonic()
        channel.put.remote(event)

    try:
        if setup and not _prepared:
            worker.resolve(setup)(devices, threads)
            _prepared.append((setup, devices, threads))
        return worker.run(task, send)
    except KeyboardInterrupt:
        # Ray interrupts a task that is cancelled. A train loop has its own handler, and saves a checkpoint.
        return {"event": "stopped", "id": task["id"]}
    except Exception as error:  # a defect: its traceback has to reach the machine on which the user looks
        message, lines = f"{type(error).__name__}: {error}", traceback.format_exc().splitlines()
        return {"event": "failed", "kind": "WorkError", "message": message, "lines": lines}


def _told(error: Exception) -> str:
    """Returns an error of Ray's in one line: its kind, and the last line of its text, which says why."""
    last = str(error).strip().rpartition("\n")[2].rstrip(".")
    return f"{type(error).__name__}: {last}"


def _knock(address: str) -> None:
    """Raises OSError if nobody listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _in_order(tasks: Sequence[Task]) -> Iterator[tuple[Task, list[str]]]:
    """Yields tasks after those that they wait for, else the longest path first, with the ids of the latter."""
    waiting = {task.id: task for task in launch_order(tasks)}
    ids = set(waiting)
    while waiting:
        task = next(task for task in waiting.values() if not set(task.after) & waiting.keys())
        del waiting[task.id]
        yield task, [name for name in task.after if name in ids]
