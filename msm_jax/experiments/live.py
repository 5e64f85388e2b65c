"""The display while an experiment runs: a live table on a terminal, plain lines elsewhere."""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from msm_jax.experiments.scheduler import Task, time_left
from msm_jax.foundation import mirror

_HEARTBEAT_SECONDS = 15.0


class Board:
    """A `scheduler.Listener` that shows which tasks run and how fast, how many are done or wait, and the time left.

    It is a context manager. `done` holds the seconds of each task that has succeeded. `expect` may be called again when
    more of the graph is known.
    """

    def __init__(self, console: Console, title: str, slots: int) -> None:
        self._console = console
        self._title = title
        self._slots = slots
        self._tasks: list[Task] = []
        self._running: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self.done: dict[str, float] = {}
        self._whole: dict[str, float] = {}  # {task: estimated or measured seconds for all of its steps}
        self._failed: set[str] = set()
        self._reused: set[str] = set()
        self._start = time.monotonic()
        self._spoke = self._start
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Board":
        """Starts the live table if the console is a terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Removes the live table."""
        if self._console.is_terminal:
            self._live.stop()

    def expect(self, tasks: Sequence[Task], reused: Collection[str]) -> None:
        """Adds tasks that will run, and ids of nodes whose results are reused unless this board has seen them run."""
        self._tasks += tasks
        self._reused |= set(reused) - self.done.keys()

    def started(self, task_id: str) -> None:
        """Shows that the task runs; see `scheduler.Listener`."""
        self._running[task_id] = (time.monotonic(), {})
        if not self._console.is_terminal:
            self.say(f"start {task_id}")

    def progressed(self, task_id: str, progress: Mapping[str, Any]) -> None:
        """Shows the fields step, steps, loss, tokens_per_second, eta_seconds and note, and says what is in notice; see
        `scheduler.Listener`.
        """
        if "notice" in progress:
            self.say(f"{task_id}: {progress['notice']}")
        start, before = self._running[task_id]
        fields = {**before, **progress}
        self._running[task_id] = (start, fields)
        eta, step, steps = fields.get("eta_seconds"), fields.get("step", 0), fields.get("steps", 0)
        if eta is not None and step < steps:
            # Not measured from the start of the task, which may continue an earlier run.
            self._whole[task_id] = eta * steps / (steps - step)

    def ended(self, task_id: str, seconds: float, failed: bool) -> None:
        """Shows how the task ended; see `scheduler.Listener`."""
        _, progress = self._running.pop(task_id)
        loss = f", loss {progress['loss']:.3f}" if "loss" in progress else ""
        if failed:
            self._failed.add(task_id)
            self.say(f"FAILED {task_id}")
            return
        self.done[task_id] = seconds
        self._whole.setdefault(task_id, seconds)
        if not self._console.is_terminal:
            self.say(f"done  {task_id} in {duration(seconds)}{loss}")

    def say(self, text: str) -> None:
        """Prints a line above the table, or among the plain lines."""
        clock = duration(time.monotonic() - self._start)
        self._console.print(f"[{clock:>7}] {mirror.named(text)}", markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Prints a line of progress every 15 seconds if there is no terminal."""
        now = time.monotonic()
        if self._console.is_terminal or now - self._spoke < _HEARTBEAT_SECONDS:
            return
        self._spoke = now
        running = "; ".join(f"{task_id} {_progress_words(fields)}" for task_id, (_, fields) in self._running.items())
        self.say(f"{running} | {self._summary()}")

    def seconds_left(self) -> float:
        """Returns the seconds until all expected tasks are done.

        Running tasks report their own time. The estimate of another task is multiplied by the ratio of measured to
        estimated time of the tasks of its kind, since a first estimate knows neither the machine nor its load.
        """
        pace = self._pace()
        remaining = [
            dataclasses.replace(task, seconds=task.seconds * pace.get(_kind(task), 1.0))
            for task in self._tasks
            if task.id not in self.done and task.id not in self._failed
        ]
        now = time.monotonic()
        running = {}
        for task in remaining:
            if task.id in self._running:
                start, progress = self._running[task.id]
                eta = progress.get("eta_seconds")
                running[task.id] = max(eta if eta is not None else task.seconds - (now - start), 0.0)
        return time_left(remaining, self._slots, running)

    def _pace(self) -> dict[str, float]:
        took: dict[str, float] = defaultdict(float)
        expected: dict[str, float] = defaultdict(float)
        for task in self._tasks:
            if task.id in self._whole:
                took[_kind(task)] += self._whole[task.id]
                expected[_kind(task)] += task.seconds
        return {kind: took[kind] / seconds for kind, seconds in expected.items() if seconds > 0}

    def _summary(self) -> str:
        waiting = len(self._tasks) - len(self.done) - len(self._failed) - len(self._running)
        counts = f"{len(self.done)} done, {len(self._reused)} reused, {waiting} waiting"
        return f"{counts}; about {duration(self.seconds_left())} left"

    def _render(self) -> Group:
        table = Table(title=self._title, title_justify="left", expand=False, pad_edge=False, box=None)
        table.add_column("running", no_wrap=True, overflow="ellipsis")
        for name in ("step", "tokens/s", "loss", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for task_id, (start, fields) in self._running.items():
            step = f"{fields['step']}/{fields['steps']}" if "steps" in fields else duration(time.monotonic() - start)
            speed = f"{fields['tokens_per_second']:,.0f}" if "tokens_per_second" in fields else ""
            loss = f"{fields['loss']:.3f}" if "loss" in fields else ""
            left = duration(fields["eta_seconds"]) if fields.get("eta_seconds") is not None else ""
            name = f"{task_id} ({fields['note']})" if fields.get("note") else task_id
            table.add_row(name, step, speed, loss, left)
        elapsed = duration(time.monotonic() - self._start)
        return Group(table, Text(f"{self._summary()}; {elapsed} so far"))


def _kind(task: Task) -> str:
    return task.id.partition("/")[0]


def _progress_words(fields: Mapping[str, Any]) -> str:
    words = [fields["note"]] if fields.get("note") else []
    if "steps" in fields:
        words.append(f"{fields['step']}/{fields['steps']}")
    if "tokens_per_second" in fields:
        words.append(f"{fields['tokens_per_second']:,.0f} tokens/s")
    if "loss" in fields:
        words.append(f"loss {fields['loss']:.3f}")
    return " ".join(words)


def duration(seconds: float) -> str:
    """Returns seconds as "42 s", "3:05" (minutes and seconds) or "2:04:09" (hours, minutes and seconds)."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
