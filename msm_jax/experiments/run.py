"""One run of an experiment: plans what is missing, runs it in worker processes, gathers the results, and reports."""

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
from msm_jax.checkpoints import workdirs
from msm_jax.errors import InputError, WorkError
from msm_jax.experiments import checks, estimate, eval_costs, foresight, gather, inspect_logs, reading, reason_rates
from msm_jax.experiments.config import ExperimentConfig, slots
from msm_jax.experiments.context import Context, stored_path
from msm_jax.experiments.live import Board
from msm_jax.experiments.plan import Planner, Step, is_addressed, report_address, table
from msm_jax.experiments.ray_executor import RayExecutor
from msm_jax.experiments.scheduler import Executor, Pool, Task
from msm_jax.foundation import hashing, lock, mirror, settings, storage
from msm_jax.foundation.storage import Location

SETTINGS = gather.SETTINGS
SETUP = "msm_jax.experiments.nodes.execute:start"
LOCAL = "local"


def run(
    config: ExperimentConfig,
    workdir: Location,
    console: Console,
    executors: Mapping[str, str] | None = None,
    setup: str = SETUP,
    store: Location | None = None,
    executor: str | Executor = LOCAL,
) -> None:
    """Brings the experiment in `workdir` up to date and writes its report.

    Args:
      config: its settings.
      workdir: its directory, which is created if it does not exist, or a URL.
      console: for progress and tables.
      executors: {kind of node: "module:function"} in place of the kinds' own `run`.
      setup: "module:function" that starts a worker, "" for none.
      store: the directory or URL at which results are found and kept, which experiments may share, at a URL one after
        the other; `workdir` by default.
      executor: "local" for worker processes of this machine, "ray" for the Ray cluster that it belongs to, or
        "ray:ADDRESS"; or what runs tasks, such as `lockstep.Lockstep`.

    Raises:
      InputError: the settings, a file, the directory or the executor is refused, before any training.
      WorkError: a node failed.
      Preempted: a signal stopped the run. After this, as after a failure, another run continues.
    """
    if isinstance(executor, str):
        address_of(executor)
    if executor != LOCAL:
        refuse_urls(workdir, store)
    workdir, store = absolute(workdir), None if store is None else absolute(store)
    known = checks.check_settings(config)
    checks.check_files(known)
    if not storage.is_url(workdir):
        refuse_foreign(config, Path(workdir))
    for directory in (workdir, store):
        if directory is not None and not storage.is_url(directory):
            _make(Path(directory))
    with (
        lock.inherited(),
        workdirs.held(workdir, store) as held,
        workdirs.pushed(*{held.workdir, held.store}, results=False),
    ):
        for directory in {held.workdir, held.store}:
            storage.remove_abandoned(directory)
        _run(config, held, console, executors or {}, setup, known.files, executor)
        page = mirror.named(held.workdir / "report.html")
    console.print(f"report: {page}", soft_wrap=True)


def _run(
    config: ExperimentConfig,
    held: workdirs.Held,
    console: Console,
    executors: Mapping[str, str],
    setup: str,
    files: dict[str, list[str]],
    executor: str | Executor,
) -> None:
    """Does the work of `run` in the directories that it holds."""
    workdir = held.workdir
    refuse_foreign(config, workdir)
    content = {"format": 1, "name": config.name, "config": settings.to_json(config)}
    storage.write_json(workdir / SETTINGS, {**content, "added": _added(config, workdir)})
    with _Runner(config, workdir, console, setup, held.descriptors, executor) as runner:
        steps, context = _train(Planner(config, held.store, executors, files), runner, workdir)
    address = report_address(context, workdir)
    stored, content = storage.find_json(address.path), storage.find_json(workdir / "report.json")
    current = stored is not None and stored["hash"] == address.hash and content is not None
    if current and not runner.ran:
        console.print(f"nothing to do: all {len(steps) + 1} nodes are done")
        tables.print_report(content)
    else:
        _write_record(steps, runner.ran, workdir)
        render(config, workdir)
        storage.write_json(address.path, address.description())


def _train(planner: Planner, runner: "_Runner", workdir: Path) -> tuple[list[Step], Context]:
    """Runs every node that is missing; returns the steps of all nodes with results, as planned, and what is known."""
    while True:
        steps, context = planner.plan()
        if is_addressed(steps):
            break
        runner.run([step for step in steps if step.paths])
    if any(step.task for step in steps):
        checks.read_files(context)
        _write_record(steps, runner.ran, workdir)
        try:
            runner.run(steps)
        finally:
            _write_record(steps, runner.ran, workdir)
    return [step for step in steps if step.paths], context


def dry_run(config: ExperimentConfig, workdir: Location, console: Console, store: Location | None = None) -> None:
    """Prints what `run` would do, and why; changes nothing. Of a URL it looks at a copy that it makes and removes.

    If files are missing, the plan follows from the settings alone. A line on each missing file, and on each judge that
    cannot be asked, comes after it.

    Raises:
      InputError: as `run` does before any training, as far as the files exist.
    """
    known = checks.check_settings(config)
    with mirror.apart():
        here = workdirs.fetched(absolute(workdir))
        _dry_run(config, known, here, here if store is None else workdirs.fetched(absolute(store)), console)


def _dry_run(config: ExperimentConfig, known: Context, workdir: Path, store: Path, console: Console) -> None:
    refuse_foreign(config, workdir)
    lacking, unasked = checks.missing(known), checks.unasked(known)
    planner = Planner(config, store, {}, known.files)
    if lacking:
        waits_for = next((node.id for node in known.graph.nodes if node.is_content), "")
        steps, context = [step for step in planner.unaddressed(known, {}, waits_for) if not step.node.is_content], known
    else:
        if not unasked:
            checks.check_content(known)
        steps, context = planner.plan()
    for part in table(steps, slots(config)):
        console.print(part)
    if config.model:
        adapters = estimate.adapter_parameters(config, known.phase_configs.values())
        trained = f"; adapters of {', '.join(f'{n:,}' for n in adapters)}" if adapters else ""
        console.print(f"{config.model}: {estimate.parameters_of_model(config):,} parameters{trained}")
    if config.accelerator:
        console.print(estimate.CONVENTION.format(chip=config.accelerator), soft_wrap=True)
    for line in (*eval_costs.lines(context), *foresight.lines(context, workdir), *reading.lines(context)):
        console.print(line, soft_wrap=True, markup=False)
    for line in (*lacking, *unasked):
        console.print(f"missing: {line}", soft_wrap=True, markup=False)
    if lacking:
        raise InputError(f"{len(lacking)} of the files that this experiment needs do not exist; see the lines above")
    if unasked:
        raise InputError(f"{len(unasked)} of the judges of this experiment cannot be asked; see the lines above")


def render(config: ExperimentConfig, workdir: Path) -> list[str]:
    """Writes report, samples and tables of reasons from stored results, and prints the report.

    Returns:
      A line on each missing result.

    Raises:
      InputError: there is nothing to report yet.
    """
    results, missing = gather.results(config, workdir)
    files = gather.write_transcripts(config, workdir)
    findings = report_lib.write({**results, "files": files}, workdir)
    reason_rates.write(findings, workdir)
    tables.print_report(findings)
    if any(any(evals.values()) for evals in results["samples"].values()) and not inspect_logs.can_write():
        print(inspect_logs.MISSING)
    return missing


def render_at(workdir: Location) -> list[str]:
    """Renders the report of the experiment at a directory or a URL again, as `render`, also while it runs.

    Raises:
      InputError: there is no experiment, or nothing to report yet.
      WorkError: a file cannot be written, or the storage does not answer.
    """
    with mirror.apart():
        here = workdirs.fetched(workdir)
        config = load(here)
        for url in gather.elsewhere(here):
            workdirs.fetched(url)
        with workdirs.pushed(here, results=False):
            return render(config, here)


def load(workdir: Path) -> ExperimentConfig:
    """Returns the settings of the experiment in `workdir`.

    Raises:
      InputError: there is none.
    """
    stored = storage.find_json(workdir / SETTINGS)
    if stored is None:
        raise InputError(f"{workdir}: holds no experiment; give the --workdir of msm_jax.experiment")
    return settings.build(ExperimentConfig, stored["config"])


def refuse_foreign(config: ExperimentConfig, workdir: Path) -> None:
    """Refuses the directory of another experiment, or of a single training run.

    Raises:
      InputError: `workdir` is such a directory.
    """
    stored = storage.find_json(workdir / SETTINGS)
    if stored is not None and stored["name"] != config.name:
        raise InputError(
            f"{workdir}: belongs to experiment {stored['name']}, not {config.name}; give another --workdir"
        )
    if stored is None and (workdir / "manifest.json").exists():
        raise InputError(f"{workdir}: holds a training run, not an experiment; give another --workdir")


def absolute(location: Location) -> Location:
    """Returns a URL as it is, and the absolute path of a directory."""
    return location if storage.is_url(location) else Path(location).absolute()


def refuse_urls(workdir: Location, store: Location | None) -> None:
    """Refuses URLs for work in which processes of other machines take part, since they do not see the copy of this one.

    Raises:
      InputError: the workdir or the store is a URL.
    """
    for location in (workdir, store):
        if location is not None and storage.is_url(location):
            raise InputError(
                f"{location}: one machine alone works at a URL; for several hosts or Ray, give a directory on a file "
                "system that they share, such as NFS or Filestore"
            )


def address_of(executor: str) -> str | None:
    """Returns the address of the Ray cluster that an executor names, "" for that of this machine, None for "local".

    Raises:
      InputError: it names something else.
    """
    name, _, address = executor.partition(":")
    if executor == LOCAL:
        return None
    if name != "ray" or executor == "ray:":
        raise InputError(f"--executor={executor}: give local, ray, or ray:ADDRESS such as ray:10.0.0.2:6379")
    return address


def _added(config: ExperimentConfig, workdir: Path) -> list[str]:
    """Returns the contrasts that were asked for, or changed, after there was a report."""
    before = storage.find_json(workdir / SETTINGS)
    if before is None:
        return []
    now, then = (
        {name: {**spec, "sentence": ""} for name, spec in contrasts.items()}
        for contrasts in (settings.to_json(config)["contrasts"], before["config"]["contrasts"])
    )
    reported = (workdir / "report.json").exists()
    late = {name for name, spec in now.items() if reported and then.get(name) != spec} | {*before.get("added", ())}
    # A mean asks what its contrasts ask.
    return [name for name, spec in now.items() if late & {name, *spec["mean_of"]}]


def _make(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{workdir}: cannot be created ({error.strerror}); give another --workdir") from error


def _write_record(steps: Sequence[Step], ran: Mapping[str, float], workdir: Path) -> None:
    """Writes `nodes.json`: the graph of this run, and where each result is."""
    nodes: list[dict[str, Any]] = []
    evals: dict[str, dict[str, str]] = {}
    for step in steps:
        if not step.paths:
            continue
        status = "ran" if step.node.id in ran else "missing" if step.task else "reused"
        paths = {name: stored_path(path, workdir) for name, path in step.paths.items()}
        if "" not in paths:
            evals[step.node.id] = paths
        nodes.append(
            {
                "id": step.node.id,
                "kind": step.kind,
                "label": step.label,
                "parents": list(step.node.parents),
                "path": paths.get(""),
                "status": status,
                "seconds": ran.get(step.node.id, step.cost.seconds),
            }
        )
    storage.write_json(workdir / gather.RECORD, {"nodes": nodes, "evals": evals})


class _Runner:
    """Starts workers and the live table when the first task runs, and keeps them for the rest of the run."""

    def __init__(
        self,
        config: ExperimentConfig,
        workdir: Path,
        console: Console,
        setup: str,
        descriptors: Sequence[int],
        executor: str | Executor,
    ) -> None:
        self.ran: dict[str, float] = {}
        self._config = config
        self._workdir = workdir
        self._console = console
        self._setup = setup
        self._descriptors = descriptors
        self._executor = executor
        self._stack = contextlib.ExitStack()
        self._started: tuple[Executor, Board, bool] | None = None

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, steps: Sequence[Step]) -> None:
        """Runs the tasks of `steps`; see `Executor.run` for what it raises."""
        executor, board, as_asked = self._started = self._started or self._start()
        tasks = [step.task if as_asked else _for_accelerator(step.task) for step in steps if step.task]
        board.expect(tasks, reused=[step.node.id for step in steps if not step.task])
        try:
            executor.run(tasks, board)
        finally:
            self.ran = dict(board.done)

    def _start(self) -> tuple[Executor, Board, bool]:
        """Returns what runs tasks, what shows them, and whether they get the devices and threads that they ask for."""
        if not isinstance(self._executor, str):
            return self._executor, self._stack.enter_context(Board(self._console, self._config.name, 1)), True
        path = os.pathsep.join(filter(None, [str(hashing.PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
        environment = {"PYTHONPATH": path}
        address = address_of(self._executor)
        if address is not None:
            ray = self._stack.enter_context(RayExecutor(address, self._setup, environment))
            return ray, self._stack.enter_context(Board(self._console, self._config.name, ray.slots)), True
        on_cpu = not self._setup or _platform() == "cpu"
        count = slots(self._config) if on_cpu else 1
        if on_cpu:
            environment["JAX_PLATFORMS"] = "cpu"
        board = self._stack.enter_context(Board(self._console, self._config.name, count))
        log_dir = self._workdir / "logs"
        pool = self._stack.enter_context(Pool(count, log_dir, self._setup, environment, self._descriptors))
        return pool, board, on_cpu


def _for_accelerator(task: Task) -> Task:
    """Returns a task with the devices and threads of the one process that holds the accelerators, whatever it asks."""
    return dataclasses.replace(task, devices=1, threads=0)


def _platform() -> str:
    """Returns JAX's default platform, as a child process finds it: this process must not take the accelerators."""
    named = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if named:
        return named
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        last = asked.stderr.strip().rpartition("\n")[2]
        raise WorkError(f"JAX does not start: {last}; set JAX_PLATFORMS=cpu to run without accelerators")
    return asked.stdout.strip()
