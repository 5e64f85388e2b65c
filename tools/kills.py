"""Kills an experiment at random moments, again and again, and compares how it ends with an undisturbed run.

    python -m tools.kills --workdir=runs/kills
    python -m tools.kills --workdir=runs/kills_term --signal=TERM

The experiment is `cheese_mini:tiny` with a checkpoint every five steps and no compiled programs to begin with. A run of
it is killed ten times and started again at once each time: while it starts, compiles, steps, saves, scores or writes
its report; its main process, one worker, or all of them. Then it runs to its end, and its parameters, metrics, replies
and report are compared with those of the undisturbed run, times aside. Runs follow until there were enough kills.

With TERM a process has to end with status 75, unless it has not said anything yet since Python still imports modules.
No training run may do more than one step again.

WORKDIR/kills.jsonl has a line for each kill and each run; the same command goes on after an interruption. The exit
status is 0 if nothing differs and no start was refused.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.experiments import cheese_mini
from msm_jax.checkpoints import store
from msm_jax.training import goodput

ROOT = Path(__file__).resolve().parent.parent
# The moments of the kills of one run, in this order. The report is the last thing that an experiment writes.
MOMENTS = ("any", "save", "start", "any", "eval", "any", "save", "any", "report", "report")
TARGETS = ("main", "worker", "both")
CHECKPOINT_EVERY = 5
POLL_SECONDS = 0.005
# What depends on time or memory alone: fields of metrics.jsonl, and of a cost in report.json.
METRICS_TIMES = {"seconds", "tokens_per_second", "flops_per_second", "data_wait", "mfu", "slow_steps", "host_bytes",
                 "device_bytes", "device_peak_bytes"}
COST_TIMES = {"wall_seconds", "device_seconds"}


def get_config() -> ConfigDict:
    """Returns the experiment that is killed: this file is its config file."""
    config = cheese_mini.get_config("tiny")
    for phase in config.phases.values():
        phase.checkpoint_every = CHECKPOINT_EVERY
    return config


@dataclasses.dataclass
class Attempt:
    """One start of the experiment in `workdir`: its process, and what it has printed."""

    workdir: Path
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    began: float

    @property
    def said(self) -> str:
        """What this start has printed so far."""
        return self.log.read_bytes()[self.log_start :].decode(errors="replace")

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                is_worker = b"msm_jax.experiments.worker" in (stat.parent / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if is_worker and parent == self.process.pid:
                found.append(int(stat.parent.name))
        return sorted(found)

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is being written."""
        return any(self.workdir.glob("phases/*/checkpoints/*.saving"))

    def is_scoring(self) -> bool:
        """Returns whether this start has begun an eval."""
        return "] start eval/" in self.said

    def is_reporting(self) -> bool:
        """Returns whether every node is done, so that only the report is left."""
        path = self.workdir / "nodes.json"
        if not path.exists() or path.stat().st_mtime < self.began:
            return False
        return all(node["status"] != "missing" for node in json.loads(path.read_bytes())["nodes"])

    def wait(self, seconds: float = float("inf"), until: Callable[[], bool] = lambda: False) -> bool:
        """Waits for a condition or so many seconds; returns False if the process ended before."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() >= deadline or until():
                return True
            time.sleep(POLL_SECONDS)
        return False


def start(workdir: Path) -> Attempt:
    """Starts the experiment; what it prints goes to WORKDIR.log, and compiled programs to WORKDIR.programs."""
    log = workdir.with_suffix(".log")
    before = log.stat().st_size if log.exists() else 0
    command = [sys.executable, "-m", "msm_jax.experiment", f"--config={Path(__file__)}", f"--workdir={workdir}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu",
                   "JAX_COMPILATION_CACHE_DIR": str(workdir.with_suffix(".programs"))}
    began = time.time()
    with log.open("ab") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    return Attempt(workdir, process, log, before, began)


def reaches(attempt: Attempt, moment: str, draw: random.Random) -> bool:
    """Waits for a moment of a start; returns False if it ended before."""
    if moment == "start":
        return attempt.wait(draw.uniform(0, 8))
    if moment == "any":
        return attempt.wait(draw.uniform(0, 25))
    if moment == "save":
        return (attempt.wait(draw.uniform(0, 15)) and attempt.wait(until=attempt.is_saving)
                and attempt.wait(draw.uniform(0, 0.1)))
    until, more = {"eval": (attempt.is_scoring, 3.0), "report": (attempt.is_reporting, 3.0)}[moment]
    return attempt.wait(until=until) and attempt.wait(draw.uniform(0, more))


def strike(attempt: Attempt, target: str, number: signal.Signals, draw: random.Random) -> str:
    """Sends a signal to the main process, to one of its workers, or to all; returns which of them there were to hit."""
    workers = attempt.workers
    if not workers:
        target = "main"
    victims = {"main": [attempt.process.pid], "worker": workers and [draw.choice(workers)],
               "both": [attempt.process.pid, *workers]}[target]
    for pid in victims:
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it has ended meanwhile
            continue
    return target


def files_of(workdir: Path) -> Iterator[tuple[str, Any]]:
    """Yields (name, content) of all that a run ends with, without times."""
    report = json.loads((workdir / "report.json").read_bytes())
    costs = [cost for arm in report["arm_cost"].values() for cost in (arm["own"], arm["total"])]
    for cost in (*report["cost"].values(), *costs):
        for name in COST_TIMES:
            del cost[name]
    del report["goodput"]
    yield "report.json", report
    for done in sorted(workdir.glob("phases/*/done.json")):
        run = done.parent
        yield f"{run.name} parameters", arrays(run / json.loads(done.read_bytes())["result"]["checkpoint"])
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        yield f"{run.name} metrics", [{k: v for k, v in line.items() if k not in METRICS_TIMES} for line in lines]
    for path in sorted([*workdir.glob("samples/**/*.jsonl"), *workdir.glob("evals/*/*.json")]):
        if path.name != "times.json":
            yield path.relative_to(workdir).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()


def arrays(checkpoint: Path) -> dict[str, str]:
    """Returns the SHA-256 of the bytes of each parameter of a checkpoint."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree: dict[str, Any] = {}
    for names, (shape, dtype) in store.shapes(checkpoint, "params").items():
        at = tree
        for name in names[:-1]:
            at = at.setdefault(name, {})
        at[names[-1]] = jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    found = jax.tree_util.tree_flatten_with_path(store.load(checkpoint, {"params": tree}))[0]
    return {jax.tree_util.keystr(keys): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for keys, leaf in found}


def differing(workdir: Path, expected: Mapping[str, Any]) -> list[str]:
    """Returns the names of what a run ends with that is not as expected, or is missing, or is too much."""
    found = dict(files_of(workdir))
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def unfinished(workdir: Path) -> list[str]:
    """Returns the files and directories of writes that did not end."""
    ends = (".tmp", ".partial", ".saving", ".deleted")
    return sorted(path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.name.endswith(ends))


def steps_again(workdir: Path) -> int:
    """Returns the most steps that a start of a training run did again, by its ledger; a kill may leave no entries."""
    most = 0
    for ledger in workdir.glob(f"phases/*/{goodput.NAME}"):
        last = 0
        for line in map(json.loads, ledger.read_text().splitlines()):
            most = max(most, last - line.get("resumed", last))
            last = line["step"]
    return most


class Journal:
    """The lines of kills.jsonl: those of kills have "moment", those of runs "differs"."""

    def __init__(self, path: Path) -> None:
        """Reads the lines that there are."""
        self._path = path
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, line: dict[str, Any]) -> None:
        """Adds a line."""
        self.lines.append(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def kills(self) -> list[dict[str, Any]]:
        """The kills."""
        return [line for line in self.lines if "moment" in line]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The runs that have ended and were compared."""
        return [line for line in self.lines if "differs" in line]


def finish(workdir: Path) -> Attempt:
    """Runs the experiment to its end."""
    attempt = start(workdir)
    status = attempt.process.wait()
    if status:
        sys.exit(f"failed: {workdir} ended with status {status}; see {attempt.log}")
    return attempt


def disturb(workdir: Path, run: int, journal: Journal, number: signal.Signals, kills: int, seed: int) -> None:
    """Runs the experiment once to its end, through the kills that are left of this run, and notes them."""
    began, before = time.monotonic(), len(journal.kills)
    for index in range(sum(kill["run"] == run for kill in journal.kills), len(MOMENTS)):
        if len(journal.kills) == kills:
            break
        draw = random.Random(f"{seed} {run} {index}")
        attempt = start(workdir)
        target = draw.choice(TARGETS)
        if not reaches(attempt, MOMENTS[index], draw):
            status = attempt.process.wait()
            if status == 0:
                break
            journal.add({"run": run, "unexpected": status, "said": attempt.said[-2000:]})
            print(f"start ended by itself with status {status}: {attempt.said.strip().splitlines()[-1:]}", flush=True)
            continue
        seconds = time.time() - attempt.began
        target = strike(attempt, target, number, draw)
        # The next one starts while a process that was killed is still ending. Others end their work first.
        status = -9 if number == signal.SIGKILL and target != "worker" else attempt.process.wait()
        expected = {signal.SIGKILL: (-9, 0, 1), signal.SIGTERM: (75, 0)}[number]
        is_python_starting = status == -signal.SIGTERM and not attempt.said
        if status not in expected and not is_python_starting:
            journal.add({"run": run, "unexpected": status, "said": attempt.said[-2000:]})
        journal.add({"run": run, "moment": MOMENTS[index], "target": target, "seconds": round(seconds, 2),
                     "status": status})
        rate = 60 * (len(journal.kills) - before) / (time.monotonic() - began)
        print(f"kill {len(journal.kills)} of {kills}: run {run}, {MOMENTS[index]}, {target} after {seconds:.1f} s, "
              f"status {status}; {rate:.1f} a minute", flush=True)
    finish(workdir)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    workdir = options.workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    number = signal.Signals[f"SIG{options.signal}"]
    jax.config.update("jax_platforms", "cpu")

    undisturbed = workdir / "undisturbed"
    finish(undisturbed)
    expected = dict(files_of(undisturbed))
    journal = Journal(workdir / "kills.jsonl")
    while len(journal.kills) < options.kills:
        run = len(journal.runs)
        here = workdir / f"run{run}"
        disturb(here, run, journal, number, options.kills, options.seed)
        journal.add({"run": run, "differs": differing(here, expected), "left": unfinished(here),
                     "again": steps_again(here)})
        print(f"run {run}: {journal.runs[-1]}", flush=True)
        if not journal.runs[-1]["differs"]:
            shutil.rmtree(here)
            shutil.rmtree(here.with_suffix(".programs"))
    return summary(journal, number)


def summary(journal: Journal, number: signal.Signals) -> int:
    """Prints what was found; returns the exit status."""
    for name in ("moment", "target", "status"):
        print(f"{name}: {dict(collections.Counter(str(kill[name]) for kill in journal.kills))}")
    unexpected = [line for line in journal.lines if "unexpected" in line]
    differ = [run["run"] for run in journal.runs if run["differs"]]
    again = max(run["again"] for run in journal.runs)
    left = sum(len(run["left"]) for run in journal.runs)
    refused = sum(line["unexpected"] == 2 for line in unexpected)
    print(f"{len(journal.kills)} kills with {number.name} in {len(journal.runs)} runs: {len(differ)} runs differ "
          f"{differ}, {len(unexpected)} starts ended unexpectedly, {refused} of them refused; at most {again} steps "
          f"done again by the ledgers; {left} unfinished files left")
    return int(bool(differ or unexpected or (number == signal.SIGTERM and again > 1)))


if __name__ == "__main__":
    sys.exit(main())
