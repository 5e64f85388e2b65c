"""One run of an experiment: decide what is missing, run it in worker processes, gather, report."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from msm_jax.analysis import report as report_lib
from msm_jax.analysis import tables
from msm_jax.errors import InputError, WorkError
from msm_jax.experiments import checks, estimate, gather, lock
from msm_jax.experiments.address import Addresses
from msm_jax.experiments.config import ExperimentConfig, slots
from msm_jax.experiments.files import read_json, write_json
from msm_jax.experiments.live import Board
from msm_jax.experiments.plan import EXECUTORS, Planner, Step, phase_configs, report_address, table
from msm_jax.experiments.scheduler import Pool, Task
from msm_jax.foundation import hashing, settings

SETTINGS = "experiment.json"
SETUP = "msm_jax.experiments.execute:start"


def run(
    config: ExperimentConfig,
    workdir: Path,
    console: Console,
    executors: Mapping[str, str] = EXECUTORS,
    setup: str = SETUP,
) -> None:
    """Bring the experiment in `workdir` up to date and write its report.

    Args:
      config: its settings.
      workdir: made where it does not exist.
      console: for progress and tables.
      executors: {kind of node: "module:function" that runs it}.
      setup: "module:function" that starts a worker, "" for none.

    Raises:
      InputError: refused before any training.
      WorkError: a node failed.
      Preempted: a signal came; after this and after a failure, running again continues.
    """
    workdir = workdir.absolute()
    checks.check_settings(config)
    checks.check_files(config)
    refuse_foreign(config, workdir)
    _make(workdir)
    with lock.hold(workdir) as lock_fd:
        refuse_foreign(config, workdir)
        write_json(workdir / SETTINGS, {"format": 1, "name": config.name, "config": settings.to_json(config)})
        with _Runner(config, workdir, console, setup, lock_fd) as runner:
            steps, addresses = _train(Planner(config, workdir, executors), runner)
        address = report_address(config, addresses, workdir)
        stored, content = read_json(address.path), read_json(workdir / "report.json")
        current = stored is not None and stored["hash"] == address.hash and content is not None
        if current and not runner.ran:
            console.print(f"nothing to do: all {len(steps) + 1} nodes are done")
            tables.print_report(content)
        else:
            _write_record(steps, runner.ran, workdir)
            render(config, workdir)
            write_json(address.path, address.description())
    console.print(f"report: {workdir / 'report.html'}", soft_wrap=True)


def _train(planner: Planner, runner: "_Runner") -> tuple[list[Step], Addresses]:
    """Run every node that is missing; returns all nodes, checks of data aside, as they were before."""
    while True:
        first, inputs = planner.inputs()
        if inputs is not None:
            break
        runner.run(first)
    addresses = Addresses(planner.config, planner.graph, inputs, planner.workdir)
    steps = planner.training(addresses)
    if any(step.task for step in steps):
        checks.check_items(addresses)
        everything = [*first, *steps]
        _write_record(everything, runner.ran, planner.workdir)
        try:
            runner.run(everything)
        finally:
            _write_record(everything, runner.ran, planner.workdir)
    return [step for step in (*first, *steps) if step.kind != "data"], addresses


def dry_run(config: ExperimentConfig, workdir: Path, console: Console) -> None:
    """Print what `run` would do, and why; changes nothing.

    Where files are missing, the plan follows from the settings alone, and a line on each of them follows it.

    Raises:
      InputError: as `run` does before any training, as far as the files exist.
    """
    workdir = workdir.absolute()
    checks.check_settings(config)
    refuse_foreign(config, workdir)
    lacking = checks.missing(config)
    planner = Planner(config, workdir, EXECUTORS)
    if lacking:
        steps = planner.unaddressed()
    else:
        checks.check_files(config)
        steps, inputs = planner.inputs()
        if inputs is None:
            steps += planner.unaddressed()
        else:
            steps += planner.training(Addresses(config, planner.graph, inputs, workdir))
    for part in table(steps, slots(config)):
        console.print(part)
    if config.model:
        adapters = estimate.adapter_parameters(config, phase_configs(config, planner.graph).values())
        trained = f"; adapters of {', '.join(f'{n:,}' for n in adapters)}" if adapters else ""
        console.print(f"{config.model}: {estimate.parameters_of_model(config):,} parameters{trained}")
    if lacking:
        for line in lacking:
            console.print(f"missing: {line}", soft_wrap=True, markup=False)
        raise InputError(f"{len(lacking)} of the files that this experiment needs are not there; see the lines above")


def render(config: ExperimentConfig, workdir: Path) -> list[str]:
    """Write the report and samples from what is stored, and print it; returns what is missing, in words.

    Raises:
      InputError: there is nothing to report yet.
    """
    results, missing = gather.results(config, workdir)
    findings = report_lib.write(results, workdir)
    gather.write_samples(config, workdir)
    tables.print_report(findings)
    return missing


def load(workdir: Path) -> ExperimentConfig:
    """The settings of the experiment that `workdir` holds.

    Raises:
      InputError: it holds none.
    """
    stored = read_json(workdir / SETTINGS)
    if stored is None:
        raise InputError(f"{workdir}: no experiment here; give the --workdir of msm_jax.experiment")
    return settings.build(ExperimentConfig, stored["config"])


def refuse_foreign(config: ExperimentConfig, workdir: Path) -> None:
    """Refuse a directory of another experiment, or of a single training run.

    Raises:
      InputError: it is one.
    """
    stored = read_json(workdir / SETTINGS)
    if stored is not None and stored["name"] != config.name:
        raise InputError(
            f"{workdir}: belongs to experiment {stored['name']}, not {config.name}; give another --workdir"
        )
    if stored is None and (workdir / "manifest.json").exists():
        raise InputError(f"{workdir}: holds a training run, not an experiment; give another --workdir")


def _make(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{workdir}: cannot be made ({error.strerror}); give another --workdir") from error


def _write_record(steps: Sequence[Step], ran: Mapping[str, float], workdir: Path) -> None:
    """Write `nodes.json`: the graph of this run, and where each result lies."""
    nodes: list[dict[str, Any]] = []
    evals: dict[str, dict[str, str]] = {}
    for step in steps:
        if step.kind == "data":
            continue
        status = "ran" if step.id in ran else "missing" if step.task else "reused"
        paths = {name: str(path.relative_to(workdir)) for name, path in step.paths.items()}
        if step.kind == "eval":
            evals[step.id] = paths
        nodes.append(
            {
                "id": step.id,
                "kind": step.kind,
                "label": step.label,
                "parents": list(step.parents),
                "path": paths.get(""),
                "status": status,
                "seconds": ran.get(step.id, step.seconds),
            }
        )
    write_json(workdir / gather.RECORD, {"nodes": nodes, "evals": evals})


class _Runner:
    """Starts workers and the live table when something first runs, and keeps them for the rest of the run."""

    def __init__(self, config: ExperimentConfig, workdir: Path, console: Console, setup: str, lock_fd: int) -> None:
        self.ran: dict[str, float] = {}
        self._config = config
        self._workdir = workdir
        self._console = console
        self._setup = setup
        self._lock_fd = lock_fd
        self._stack = contextlib.ExitStack()
        self._started: tuple[Pool, Board, bool] | None = None

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, steps: Sequence[Step]) -> None:
        """Run the tasks of `steps`; see `Pool.run` for what it raises."""
        pool, board, on_cpu = self._started = self._started or self._start()
        tasks = [step.task if on_cpu else _for_accelerator(step.task) for step in steps if step.task]
        board.expect(tasks, reused=[step.id for step in steps if not step.task and step.paths])
        try:
            pool.run(tasks, board)
        finally:
            self.ran = dict(board.done)

    def _start(self) -> tuple[Pool, Board, bool]:
        on_cpu = not self._setup or _platform() == "cpu"
        count = slots(self._config) if on_cpu else 1

        path = os.pathsep.join(filter(None, [str(hashing.PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
        environment = {"PYTHONPATH": path, **({"JAX_PLATFORMS": "cpu"} if on_cpu else {})}
        board = self._stack.enter_context(Board(self._console, self._config.name, count))
        log_dir = self._workdir / "logs"
        pool = self._stack.enter_context(Pool(count, log_dir, self._setup, environment, [self._lock_fd]))
        return pool, board, on_cpu


def _for_accelerator(task: Task) -> Task:
    """The task for the one process that holds the accelerators, whatever devices and threads it wants."""
    return dataclasses.replace(task, devices=1, threads=0)


def _platform() -> str:
    """JAX's default platform, asked of a process of its own: this one must not take the accelerators."""
    named = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if named:
        return named
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        last = asked.stderr.strip().rpartition("\n")[2]
        raise WorkError(f"JAX does not start: {last}; set JAX_PLATFORMS=cpu to run without accelerators")
    return asked.stdout.strip()
