"""Runs tasks in worker processes of this machine: dependencies first, then the longest path, as many as have slots."""

import contextlib
import dataclasses
import graphlib
import os
import selectors
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import termination
from msm_jax.foundation.child_process import ChildProcess
from msm_jax.parallel import backend

# Seconds that running tasks have to save a checkpoint after SIGTERM; a second signal kills them at once.
STOP_SECONDS = 120.0
# How a worker ends at SIGTERM before it has begun its task.
_STOPPED = (75, -signal.SIGTERM)
TICK_SECONDS = 0.25
_LOG_LINES = 12


@dataclasses.dataclass(frozen=True)
class Task:
    """One call in a worker process.

    Attributes:
      id: names the task.
      call: "module:function", which is called with (args, report).
      args: its arguments as JSON.
      after: ids of the tasks that must end first; those that are not among the tasks to run count as done.
      devices: devices of the worker. A worker has a fixed number of devices and threads from its start.
      threads: CPU threads of the worker.
      seconds: the estimate that decides the order of the work.
    """

    id: str
    call: str
    args: Mapping[str, Any]
    after: tuple[str, ...] = ()
    devices: int = 1
    threads: int = 1
    seconds: float = 1.0

    @property
    def slots(self) -> int:
        """The number of cores that it keeps busy."""
        return max(self.devices, self.threads)


class Listener(Protocol):
    """Receives what happens while the scheduler runs, for example `live.Board`."""

    def started(self, task_id: str) -> None:
        """Notes that a worker has begun the task."""

    def progressed(self, task_id: str, progress: Mapping[str, Any]) -> None:
        """Notes progress that the task reported."""

    def ended(self, task_id: str, seconds: float, failed: bool) -> None:
        """Notes that the task has ended, after so many seconds."""

    def say(self, text: str) -> None:
        """Shows a line to the user."""

    def tick(self) -> None:
        """Updates what is shown; called a few times a second."""


class Executor(Protocol):
    """Runs tasks, on this machine (`Pool`) or on a cluster (`ray_executor.RayExecutor`); a context manager."""

    def run(self, tasks: Sequence[Task], listener: Listener) -> None:
        """Runs all tasks, each after those that it waits for.

        After a failure no further task starts, running tasks end, and the first failure is raised.

        Raises:
          InputError, WorkError: a task raised it.
          WorkError: the process of a task ended, and the task cannot run again.
          Preempted: a signal stopped the work.
        """


class Signals:
    """A context in which SIGINT and SIGTERM are counted, and do nothing else; to be used in the main thread."""

    def __init__(self) -> None:
        """Counts from 0."""
        self._requests = termination.Requests()

    @property
    def count(self) -> int:
        """How often the process was asked to stop."""
        return self._requests.count

    def __enter__(self) -> "Signals":
        """Sets the handlers."""
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        """Restores the earlier handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._requests.add(signum)


class _Worker:
    def __init__(self, key: tuple[int, int], number: int, pool: "Pool") -> None:
        self.key = key
        self.task: Task | None = None
        self.log = pool.log_dir / f"worker-{number}.log"
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "msm_jax.experiments.worker"]
        if pool.setup:
            command += [pool.setup, *(str(count) for count in key)]
        environment = {**backend.HUGE_PAGES, **os.environ, **pool.environment}
        with self.log.open("ab") as log:
            # Its own session: Ctrl-C reaches the main process alone, which stops the workers in order.
            self.child = ChildProcess(command, log, environment, own_session=True, keep_open=pool.keep_open)

    def assign(self, task: Task) -> None:
        self.task = task
        self.log_start = self.log.stat().st_size
        # One that died while idle is noticed by the loop, as the end of its output.
        with contextlib.suppress(BrokenPipeError):
            self.child.send({"id": task.id, "call": task.call, "args": task.args})

    def last_lines(self) -> list[str]:
        """Returns the last lines of its log since its task began."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            text = file.read().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]


class Pool:
    """Worker processes that outlive a `run`, so that several runs share imports and compiled programs."""

    def __init__(
        self,
        slots: int,
        log_dir: Path,
        setup: str = "",
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Starts no process yet; to be used as a context manager, in the main thread.

        Args:
          slots: the number of cores to keep busy.
          log_dir: the directory of the log of each worker, which is its stderr.
          setup: "module:function" that a new worker calls with (devices, threads).
          environment: variables that a worker gets in addition to those of this process.
          keep_open: file descriptors that workers inherit.
        """
        self.slots = slots
        self.log_dir = log_dir
        self.setup = setup
        self.environment = environment or {}
        self.keep_open = tuple(keep_open)
        self.workers: list[_Worker] = []
        self._signals = Signals()
        self._started = 0

    def __enter__(self) -> "Pool":
        """Handles SIGINT and SIGTERM from here on: they let running tasks save a checkpoint before the work stops."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._signals.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops every worker and restores the earlier signal handlers."""
        try:
            self._stop_workers()
        finally:
            self._signals.__exit__()

    def run(self, tasks: Sequence[Task], listener: Listener) -> None:
        """Runs all tasks; see `Executor.run`."""
        waiting = {task.id: task for task in tasks}
        order = launch_order(tasks)
        failure: Exception | None = None
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                selector.register(worker.child, selectors.EVENT_READ, worker)
            while True:
                if self._signals.count:
                    self._stop_workers(selector, listener)
                    raise Preempted("stopped by a signal; run the same command again to continue")
                if failure is None:
                    self._launch(order, waiting, selector, listener)
                if not any(worker.task for worker in self.workers):
                    if failure is not None:
                        raise failure
                    return
                for key, _ in selector.select(TICK_SECONDS):
                    found = self._handle(key.data, waiting, selector, listener)
                    failure = failure or found
                listener.tick()

    def _launch(
        self,
        order: Sequence[Task],
        waiting: Mapping[str, Task],
        selector: selectors.BaseSelector,
        listener: Listener,
    ) -> None:
        running = {worker.task.id for worker in self.workers if worker.task}
        busy = sum(min(worker.task.slots, self.slots) for worker in self.workers if worker.task)
        for task in order:
            if task.id not in waiting or task.id in running:
                continue
            if any(dependency in waiting for dependency in task.after):
                continue
            cost = min(task.slots, self.slots)
            if busy + cost > self.slots:
                # The task with the longest path waits for its slots; no other task goes before it.
                return
            worker = self._worker_for((task.devices, task.threads), selector)
            worker.assign(task)
            busy += cost
            listener.started(task.id)

    def _worker_for(self, key: tuple[int, int], selector: selectors.BaseSelector) -> _Worker:
        for worker in self.workers:
            if worker.key == key and worker.task is None:
                return worker
        worker = _Worker(key, self._started, self)
        self._started += 1
        self.workers.append(worker)
        selector.register(worker.child, selectors.EVENT_READ, worker)
        return worker

    def _handle(
        self,
        worker: _Worker,
        waiting: dict[str, Task],
        selector: selectors.BaseSelector,
        listener: Listener,
    ) -> Exception | None:
        """Handles the messages of a worker; returns the failure that they report, None if they report none."""
        messages, closed = worker.child.received()
        failure: Exception | None = None
        for message in messages:
            event, task = message["event"], worker.task
            if event == "progress":
                listener.progressed(message["id"], message["progress"])
            elif event == "done":
                del waiting[message["id"]]
                worker.task = None
                listener.ended(message["id"], message["seconds"], failed=False)
            elif event == "failed":
                worker.task = None
                listener.ended(message["id"], 0.0, failed=True)
                failure = failure_of(message)
            elif event == "stopped" and task is not None:
                worker.task = None
                failure = failure_of({**message, "id": task.id})
        if closed:
            selector.unregister(worker.child)
            self.workers.remove(worker)
            worker.child.process.wait()
            status = worker.child.kill()
            if worker.task is not None and status in _STOPPED:
                listener.ended(worker.task.id, 0.0, failed=True)
                failure = failure_of({"event": "stopped", "id": worker.task.id})
            elif worker.task is not None:
                lines = worker.last_lines()
                for line in lines:
                    listener.say(line)
                listener.ended(worker.task.id, 0.0, failed=True)
                last = lines[-1].strip() if lines else "no output"
                failure = WorkError(
                    f"{worker.task.id}: worker ended with {_status(status)}: {last} (log: {worker.log})"
                )
        return failure

    def _stop_workers(self, selector: selectors.BaseSelector | None = None, listener: Listener | None = None) -> None:
        signals = self._signals.count
        for worker in self.workers:
            worker.child.process.terminate()
        if listener is not None:
            listener.say("stopping: running phases save a checkpoint first; a second signal kills them at once")
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self.workers:
            while worker.child.process.poll() is None:
                # Their last messages are of no use, but a full pipe would keep them from ending.
                worker.child.received()
                if time.monotonic() > deadline or self._signals.count > signals:
                    worker.child.process.kill()
                time.sleep(0.02)
            worker.child.kill()
        self.workers.clear()


def failure_of(event: Mapping[str, Any]) -> Exception:
    """Returns the error that a "failed" or "stopped" event of `worker` stands for."""
    if event["event"] == "stopped":
        return Preempted(f"{event['id']}: its worker was stopped; run the same command again to continue")
    if event["kind"] == "InputError":
        return InputError(event["message"])
    return WorkError(f"{event['id']}: {event['message']}")


def _status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def critical_paths(tasks: Sequence[Task]) -> dict[str, float]:
    """Returns {id: seconds from the start of the task to the end of the longest chain of tasks that wait for it}.

    Raises:
      ValueError: tasks wait for each other in a circle.
    """
    by_id = {task.id: task for task in tasks}
    waits = {task.id: [name for name in task.after if name in by_id] for task in tasks}
    paths = dict.fromkeys(by_id, 0.0)
    # Last tasks first: when the loop comes to a task, `paths` holds the longest chain after it.
    for name in reversed(list(graphlib.TopologicalSorter(waits).static_order())):
        paths[name] += by_id[name].seconds
        for dependency in waits[name]:
            paths[dependency] = max(paths[dependency], paths[name])
    return paths


def launch_order(tasks: Sequence[Task]) -> list[Task]:
    """Returns tasks in the order in which they get slots: the longest path first, equal ones as given."""
    paths = critical_paths(tasks)
    return sorted(tasks, key=lambda task: -paths[task.id])


def time_left(tasks: Sequence[Task], slots: int, running: Mapping[str, float]) -> float:
    """Returns the seconds until all `tasks` have ended, from a simulation of the schedule.

    Args:
      tasks: those that have not ended.
      slots: the number of cores.
      running: {id: seconds that it still needs} of the tasks that already run.
    """
    order = launch_order(tasks)
    waiting = {task.id for task in tasks}
    ends = {task.id: running[task.id] for task in tasks if task.id in running}
    now = 0.0
    while waiting:
        busy = sum(min(task.slots, slots) for task in tasks if task.id in ends)
        for task in order:
            if task.id not in waiting or task.id in ends or any(name in waiting for name in task.after):
                continue
            if busy + min(task.slots, slots) > slots and ends:
                break
            busy += min(task.slots, slots)
            ends[task.id] = now + task.seconds
        first = min(ends, key=ends.__getitem__)
        now = max(now, ends.pop(first))
        waiting.remove(first)
    return now
