"""Worker processes: order, slots, reuse, failures, crashes, signals, a dead parent. Nothing is trained."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.experiments.scheduler import Pool, Task, critical_paths, launch_order, time_left
from msm_jax.foundation import storage

ROOT = Path(__file__).parent.parent


class Heard:
    """A listener that keeps everything."""

    def __init__(self):
        self.events, self.lines, self.ticks = [], [], 0

    def started(self, task_id):
        self.events.append(("start", task_id))

    def progressed(self, task_id, progress):
        self.events.append(("progress", task_id, dict(progress)))

    def ended(self, task_id, seconds, failed):
        self.events.append(("failed" if failed else "end", task_id))

    def say(self, text):
        self.lines.append(text)

    def tick(self):
        self.ticks += 1


class Marks(Heard):
    """Makes a file for each task that it hears has started, for which other tasks wait."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory

    def started(self, task_id):
        super().started(task_id)
        (self.directory / f"{task_id}.heard").touch()


@pytest.fixture
def pool_of(tmp_path):
    """A function that makes a pool whose workers find the stand-ins."""

    def make(slots, **more):
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        return Pool(slots, tmp_path / "logs", environment={"PYTHONPATH": path}, **more)

    return make


def task(name, log, call="work", **fields):
    args = {key: fields.pop(key) for key in ("sleep", "how", "steps", "wait") if key in fields}
    return Task(name, f"experiments_nodes:{call}", {"name": name, "log": str(log), **args}, **fields)


def ran(log):
    """[(word, pid, time)] in the order of the log."""
    path = Path(log) / "ran.log"
    if not path.exists():
        return []
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(word, int(pid), float(at)) for word, pid, at in rows]


def test_dependencies_end_first_and_workers_are_reused(pool_of, tmp_path):
    heard = Heard()
    tasks = [
        task("c", tmp_path, after=("a", "b")),
        task("a", tmp_path),
        task("b", tmp_path, after=("a", "gone before")),
        task("d", tmp_path, after=("c",)),
    ]
    with pool_of(1) as pool:
        pool.run(tasks, heard)
        pool.run([task("later", tmp_path)], heard)
    words = [word for word, _, _ in ran(tmp_path)]
    assert words == [f"{edge}:{name}" for name in ("a", "b", "c", "d", "later") for edge in ("start", "end")]
    assert len({pid for _, pid, _ in ran(tmp_path)}) == 1, "one slot and one kind of worker is one process"
    assert ("progress", "a", {"step": 1, "steps": 2, "loss": 1.5, "eta_seconds": 0.0}) in heard.events
    assert [event for event in heard.events if event[0] == "end"][-1] == ("end", "later")
    assert "this goes to the log" in (tmp_path / "logs" / "worker-0.log").read_text()


def test_slots_bound_what_runs_at_once(pool_of, tmp_path):
    tasks = [task(f"one{i}", tmp_path, sleep=0.15) for i in range(4)]
    tasks += [task("two", tmp_path, sleep=0.15, devices=2), task("wide", tmp_path, sleep=0.1, threads=9)]
    cost = {"two": 2, "wide": 2}
    with pool_of(2) as pool:
        pool.run(tasks, Heard())
    busy, most = 0, 0
    for word, _, _ in sorted(ran(tmp_path), key=lambda row: row[2]):
        edge, name = word.split(":")
        busy += cost.get(name, 1) * (1 if edge == "start" else -1)
        most = max(most, busy)
        assert busy <= 2
    assert most == 2
    assert len(ran(tmp_path)) == 12


def test_a_worker_has_its_own_devices_and_threads(pool_of, tmp_path):
    tasks = [
        task("a", tmp_path, "environment", threads=1),
        task("b", tmp_path, "environment", threads=2),
        task("c", tmp_path, "environment", threads=2, devices=2),
    ]
    with pool_of(2, setup="experiments_nodes:setup") as pool:
        pool.run(tasks, Heard())
    seen = {name: storage.read_json(tmp_path / f"{name}.json") for name in "abc"}
    assert {name: entry["setup"] for name, entry in seen.items()} == {"a": [1, 1], "b": [1, 2], "c": [2, 2]}
    assert len({entry["pid"] for entry in seen.values()}) == 3


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("input", InputError, "data.jsonl:3: bad"),
        ("fail", WorkError, "bad: disk full"),
    ],
)
def test_a_failure_lets_running_tasks_end_and_starts_no_more(pool_of, tmp_path, how, error, message):
    heard = Marks(tmp_path)
    tasks = [
        task("bad", tmp_path, how=how, wait=str(tmp_path / "long.heard"), seconds=9),
        task("long", tmp_path, sleep=0.6, seconds=8),
        task("never", tmp_path),
    ]
    with pool_of(2) as pool, pytest.raises(error, match=f"^{message}$"):
        pool.run(tasks, heard)
    words = [word for word, _, _ in ran(tmp_path)]
    assert "end:long" in words
    assert "start:never" not in words
    assert ("failed", "bad") in heard.events


@pytest.mark.parametrize(
    ("how", "status", "last"),
    [
        ("crash", "status 1", "KeyError: 'lost my key'"),
        ("kill", "signal SIGKILL", "about to die"),
    ],
)
def test_a_crash_names_node_log_and_last_line(pool_of, tmp_path, how, status, last):
    heard = Heard()
    with pool_of(1) as pool:
        with pytest.raises(WorkError) as caught:
            pool.run([task("good", tmp_path, seconds=2), task("bad", tmp_path, how=how)], heard)
        log = tmp_path / "logs" / "worker-0.log"
        assert str(caught.value) == f"bad: worker ended with {status}: {last} (log: {log})"
        assert last in heard.lines
        assert "\n" not in str(caught.value)
        # The pool is usable again: the dead worker is replaced.
        pool.run([task("after", tmp_path)], heard)
    assert "end:after" in [word for word, _, _ in ran(tmp_path)]


def test_a_signal_stops_the_work_and_running_again_continues(pool_of, tmp_path):
    def tasks(**steps):
        waits = task("c", tmp_path, "saves_when_stopped", steps=2, after=("a",))
        return [task(name, tmp_path, "saves_when_stopped", steps=each) for name, each in steps.items()] + [waits]

    steps = 2000
    heard = Heard()

    def interrupt():
        while len(ran(tmp_path)) < 2:
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pool_of(2) as pool:
        thread.start()
        with pytest.raises(Preempted, match="run the same command again"):
            pool.run(tasks(a=steps, b=steps), heard)
        thread.join()
        pids = {pid for _, pid, _ in ran(tmp_path)}
    assert signal.getsignal(signal.SIGINT) is before
    assert not any(_alive(pid) for pid in pids)
    states = {name: int((tmp_path / f"{name}.state").read_text()) for name in "ab"}
    assert all(0 < step < steps for step in states.values())
    with pool_of(2) as pool:
        pool.run(tasks(**{name: step + 1 for name, step in states.items()}), heard)
    words = [word for word, _, _ in ran(tmp_path)]
    assert [f"start:{name}@{step}" in words for name, step in states.items()] == [True, True]
    assert {"end:a", "end:b", "end:c"} <= set(words)


def test_a_worker_stops_at_a_signal_in_a_callback_too(pool_of, tmp_path):
    began = time.monotonic()
    with pool_of(1) as pool, pytest.raises(Preempted, match="its worker was stopped"):
        pool.run([task("a", tmp_path, "stopped_in_a_callback")], Heard())
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("setup", ["stopped_at_its_start", "stopped_while_importing"])
def test_a_worker_that_a_signal_meets_before_its_task_is_no_failure(pool_of, tmp_path, setup):
    with pool_of(1, setup=f"experiments_nodes:{setup}") as pool, pytest.raises(Preempted, match="a: its worker was"):
        pool.run([task("a", tmp_path)], Heard())


def test_workers_stop_at_a_checkpoint_when_the_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        import os
        from pathlib import Path
        from test_experiments_scheduler import Heard, task
        from msm_jax.experiments.scheduler import Pool
        environment = {{"PYTHONPATH": os.pathsep.join(sys.path[:2])}}
        with Pool(1, Path({str(tmp_path)!r}) / "logs", environment=environment) as pool:
            pool.run([task("a", {str(tmp_path)!r}, "saves_when_stopped", steps=100_000)], Heard())
    """)
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    while not ran(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    ((_, pid, _),) = ran(tmp_path)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid), "an orphan keeps running"
    assert int((tmp_path / "a.state").read_text()) > 0


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_tasks_that_wait_for_each_other_are_an_error(pool_of, tmp_path):
    with pool_of(1) as pool, pytest.raises(ValueError, match="cycle"):
        pool.run([task("a", tmp_path, after=("b",)), task("b", tmp_path, after=("a",))], Heard())


@st.composite
def dags(draw):
    count = draw(st.integers(1, 7))
    seconds = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    tasks = []
    for i in range(count):
        after = draw(st.sets(st.integers(0, i - 1))) if i else set()
        wide = draw(st.integers(1, 3))
        tasks.append(
            Task(str(i), "", {}, tuple(map(str, sorted(after))), devices=wide, seconds=float(seconds[i]))
        )
    return tasks


@given(dags(), st.integers(1, 4))
def test_time_left_lies_between_its_bounds(tasks, slots):
    left = time_left(tasks, slots, {})
    work = sum(min(t.slots, slots) * t.seconds for t in tasks)
    assert left >= max(critical_paths(tasks).values()) - 1e-9
    assert left >= work / slots - 1e-9
    assert left <= sum(t.seconds for t in tasks) + 1e-9


@given(dags())
def test_critical_path_is_the_longest_chain(tasks):
    by_id = {t.id: t for t in tasks}
    paths = critical_paths(tasks)

    def chains(t):
        followers = [other for other in tasks if t.id in other.after]
        return [[t, *chain] for other in followers for chain in chains(other)] or [[t]]

    for t in tasks:
        assert paths[t.id] == max(sum(step.seconds for step in chain) for chain in chains(t))
    order = [t.id for t in launch_order(tasks)]
    for first, second in itertools.pairwise(order):
        assert paths[first] >= paths[second]
    assert sorted(order) == sorted(by_id)


def test_running_tasks_count_with_what_they_still_need():
    tasks = [Task("a", "", {}, seconds=100.0), Task("b", "", {}, after=("a",), seconds=5.0)]
    assert time_left(tasks, 2, {"a": 3.0}) == 8.0
