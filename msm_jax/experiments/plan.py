"""What a run will do: every node, whether its result is there, why not, and what it will take."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from msm_jax.experiments import address as address_lib
from msm_jax.experiments import estimate
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.address import Address, Addresses, Inputs
from msm_jax.experiments.config import WORLD, ExperimentConfig, substitute
from msm_jax.experiments.files import read_json
from msm_jax.experiments.live import duration
from msm_jax.experiments.scheduler import Task, time_left
from msm_jax.foundation import hashing, settings
from msm_jax.training.config import PhaseConfig

# What runs a node of each kind in a worker process.
EXECUTORS: Mapping[str, str] = {
    kind: f"msm_jax.experiments.execute:{kind}" for kind in ("world", "tokenizer", "data", "phase", "evals")
}
_WHY_PARTS = 3


@dataclasses.dataclass(frozen=True)
class Step:
    """One node in one run.

    `paths` are its results: {"": directory}, or {eval: file}; empty where its address is not known yet.
    `task` is None where the result is there. `why` says why it runs; `seconds` is an estimate, `guessed`
    where nothing was measured, or what a reused node took; `updates` are a phase's optimizer steps, `tokens` the
    slots of its batches.
    """

    id: str
    kind: str
    parents: tuple[str, ...]
    paths: Mapping[str, Path]
    task: Task | None
    why: str
    seconds: float
    guessed: bool = False
    updates: int = 0
    tokens: int = 0

    @property
    def label(self) -> str:
        """The node's name without its kind."""
        return self.id.removeprefix(f"{self.kind}/")


class Planner:
    """Plans runs of one experiment in one working directory."""

    def __init__(self, config: ExperimentConfig, workdir: Path, executors: Mapping[str, str]) -> None:
        self.config = config
        self.workdir = workdir
        self.graph = graph_lib.build(config)
        self._executors = executors
        self._rates = estimate.measured(workdir)

    def inputs(self) -> tuple[list[Step], Inputs | None]:
        """The world's step and the tokenizer's, and their directories once both are done.

        Raises:
          InputError: settings are refused or a file to train the tokenizer on is missing.
        """
        steps = []
        world_dir: str | None = ""
        if self.graph.has_world:
            fields = {key: value for key, value in settings.plain(self.config.world).items() if key != "kind"}
            resolved = world_settings(fields)
            step = self._built("world", address_lib.world(self.config, resolved, self.workdir), (), config=resolved)
            steps.append(step)
            world_dir = str(step.paths[""]) if step.task is None else None
        if not self.graph.has_tokenizer:
            return steps, None if world_dir is None else Inputs(world_dir, self.config.tokenizer.path)
        parents = ("world",) if self.graph.has_world else ()
        if world_dir is None:
            seconds = estimate.FIRST_GUESS["tokenizer"]
            steps.append(Step("tokenizer", "tokenizer", parents, {}, None, "after the world", seconds, True))
            return steps, None
        address = address_lib.tokenizer(self.config, world_dir, self.workdir)
        train_on = list(substitute(self.config.tokenizer.train_on, world_dir))
        size = self.config.tokenizer.vocab_size
        step = self._built("tokenizer", address, parents, train_on=train_on, vocab_size=size)
        steps.append(step)
        return steps, Inputs(world_dir, str(address.path)) if step.task is None else None

    def _built(self, kind: str, address: Address, parents: tuple[str, ...], **args: Any) -> Step:
        paths = {"": address.path}
        if address_lib.is_done(address):
            seconds = read_json(address.path / address_lib.DONE)["seconds"]
            return Step(kind, kind, parents, paths, None, "", seconds)
        seconds = estimate.FIRST_GUESS[kind]
        args |= {"dir": str(address.path), "description": address.description()}
        task = Task(kind, self._executors[kind], args, seconds=seconds)
        return Step(kind, kind, parents, paths, task, address_lib.why(address, self.workdir), seconds, True)

    def training(self, addresses: Addresses) -> list[Step]:
        """The steps of all phases and evals, checks of the phases' data among them."""
        phases = [self._phase(phase, addresses) for phase in self.graph.phases.values()]
        checks = self._data_checks(addresses, [step.id for step in phases if step.task])
        check_ids = tuple(check.id for check in checks)
        phases = [
            dataclasses.replace(step, task=dataclasses.replace(step.task, after=(*step.task.after, *check_ids)))
            if step.task
            else step
            for step in phases
        ]
        evals = [self._evals(measurement, addresses) for measurement in self.graph.measurements.values()]
        return [*checks, *phases, *evals]

    def unaddressed(self) -> list[Step]:
        """The steps of all phases and evals, from the settings alone: all of them may run."""
        waits_for = "world" if self.graph.has_world else "tokenizer" if self.graph.has_tokenizer else ""
        first = f"after the {waits_for}" if waits_for and any(self.workdir.glob("phases/*")) else "new"
        configs = phase_configs(self.config, self.graph)
        steps = []
        for phase in self.graph.phases.values():
            config = configs[phase.id]
            seconds, measured = self._phase_seconds(phase, configs)
            task = Task(phase.id, "", {}, self._phase_parents(phase), config.mesh.size, config.threads, seconds)
            parents = self._phase_parents(phase)
            size = (config.steps, estimate.tokens(config))
            steps.append(Step(phase.id, "phase", parents, {}, task, first, seconds, not measured, *size))
        for measurement in self.graph.measurements.values():
            seconds, measured = self._rates.eval_seconds(measurement.evals)
            parents = self._eval_parents(measurement)
            scoring = self.config.scoring
            task = Task(measurement.id, "", {}, parents, scoring.mesh.size, scoring.threads, seconds)
            steps.append(Step(measurement.id, "eval", parents, {}, task, first, seconds, not measured))
        return steps

    def _phase_parents(self, phase: graph_lib.Phase) -> tuple[str, ...]:
        if phase.parent:
            own = None if phase.seed is None else graph_lib.seed_of(self.config, phase.parent, phase.seed)
            return (self.graph.phases[phase.parent, own].id,)
        if self.graph.has_tokenizer:
            return ("tokenizer",)
        return ("world",) if self.graph.has_world else ()

    def _eval_parents(self, measurement: graph_lib.Measurement) -> tuple[str, ...]:
        if not measurement.chain:
            return ()
        return (self.graph.phases[measurement.chain, measurement.seed].id,)

    def _phase_seconds(self, phase: graph_lib.Phase, configs: Mapping[str, PhaseConfig]) -> tuple[float, bool]:
        parameters = estimate.parameters_of_model(self.config)
        for config in configs.values():
            parameters = max(parameters, estimate.parameters_of(config))
        return self._rates.phase_seconds(configs[phase.id], parameters)

    def _phase(self, phase: graph_lib.Phase, addresses: Addresses) -> Step:
        address, config = addresses.phases[phase.id], addresses.phase_configs[phase.id]
        parents, paths, size = self._phase_parents(phase), {"": address.path}, (config.steps, estimate.tokens(config))
        if address_lib.is_done(address):
            seconds = read_json(address.path / address_lib.DONE)["seconds"]
            return Step(phase.id, "phase", parents, paths, None, "", seconds, False, *size)
        seconds, measured = self._phase_seconds(phase, addresses.phase_configs)
        args = {
            "dir": str(address.path),
            "config": settings.to_json(config),
            "description": address.description(),
        }
        task = Task(phase.id, self._executors["phase"], args, parents, config.mesh.size, config.threads, seconds)
        why = address_lib.why(address, self.workdir)
        return Step(phase.id, "phase", parents, paths, task, why, seconds, not measured, *size)

    def _data_checks(self, addresses: Addresses, running: Sequence[str]) -> list[Step]:
        """One step per phase's name and start of its chain: the files are the same in every seed."""
        checks: dict[str, Step] = {}
        for phase in self.graph.phases.values():
            root = phase.chain[0]
            name = phase.chain[-1]
            node_id = f"data/{name}" if name == root or self.config.checkpoint else f"data/{root}/{name}"
            if phase.id not in running or node_id in checks:
                continue
            config = addresses.phase_configs[phase.id]
            args = {
                "config": settings.to_json(config),
                "checkpoint": self.config.checkpoint,
                "tokenizer": addresses.inputs.tokenizer_dir,
                "chat_template": "" if self.config.checkpoint else self._chat_template(phase.chain),
            }
            seconds = estimate.FIRST_GUESS["data"]
            task = Task(node_id, self._executors["data"], args, seconds=seconds)
            checks[node_id] = Step(node_id, "data", (), {}, task, "before the first phase", seconds, True)
        return list(checks.values())

    def _chat_template(self, chain: tuple[str, ...]) -> str:
        """The template file that is in force in the last phase of a chain; "" for that of the tokenizer."""
        named = [self.config.phases[name].get("chat_template", "") for name in chain]
        return next((path for path in reversed(named) if path), "")

    def _evals(self, measurement: graph_lib.Measurement, addresses: Addresses) -> Step:
        found = addresses.evals[measurement.id]
        paths = {name: address.path for name, address in found.items()}
        missing = {name: address for name, address in found.items() if not address_lib.is_done(address)}
        parents = self._eval_parents(measurement)
        if not missing:
            times = [read_json(path.parent / address_lib.TIMES) or {} for path in paths.values()]
            seconds = sum(seen.get(name, 0.0) for name, seen in zip(paths, times, strict=True))
            return Step(measurement.id, "eval", parents, paths, None, "", seconds)
        seconds, measured = self._rates.eval_seconds(missing)
        args = {
            "checkpoint": addresses.checkpoint_of(measurement.chain, measurement.seed),
            "batch": self.config.scoring.batch,
            "mesh": settings.to_json(self.config.scoring.mesh),
            "evals": [
                {
                    "name": name,
                    "config": addresses.eval_config(measurement, name),
                    "path": str(address.path),
                    "description": address.description(),
                }
                for name, address in missing.items()
            ],
        }
        devices, threads = self.config.scoring.mesh.size, self.config.scoring.threads
        task = Task(measurement.id, self._executors["evals"], args, parents, devices, threads, seconds)
        return Step(
            measurement.id,
            "eval",
            parents,
            paths,
            task,
            self._eval_why(found, missing),
            seconds,
            not measured,
        )

    def _eval_why(self, found: Mapping[str, Address], missing: Mapping[str, Address]) -> str:
        reasons: dict[str, list[str]] = {}
        for name, address in missing.items():
            reasons.setdefault(address_lib.why(address, self.workdir), []).append(name)
        if len(missing) == len(found) and len(reasons) == 1:
            return next(iter(reasons))
        return "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def phase_configs(config: ExperimentConfig, graph: graph_lib.Graph) -> dict[str, PhaseConfig]:
    """The settings of every phase by its node's id, with placeholders for paths that are not known yet.

    Raises:
      InputError: a phase's settings are refused.
    """
    inputs = Inputs(WORLD, config.tokenizer.path or "tokenizer")
    return {
        phase.id: address_lib.phase_config(
            config, phase, inputs, "parent" if phase.parent else config.checkpoint, Path("workdir")
        )
        for phase in graph.phases.values()
    }


def world_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings of the generated world as JSON.

    Raises:
      InputError: they are refused.
    """
    from msm_jax.miniworld.config import WorldConfig

    return settings.to_json(settings.build(WorldConfig, fields, "world"))


def report_address(config: ExperimentConfig, addresses: Addresses, workdir: Path) -> Address:
    """The address of the report; its description lies in `report.node.json`."""
    asked = settings.to_json(config)
    del asked["workers"]
    payload = {
        "config": asked,
        "phases": {node_id: address.hash for node_id, address in addresses.phases.items()},
        "evals": {
            f"{node_id}/{name}": address.hash
            for node_id, found in addresses.evals.items()
            for name, address in found.items()
        },
        "sources": {
            **hashing.sources_of("msm_jax.analysis.report"),
            **hashing.sources_of("msm_jax.experiments.gather"),
        },
    }
    return Address(graph_lib.REPORT, payload, workdir / "report.node.json")


def table(steps: Sequence[Step], slots: int) -> tuple[Table, str]:
    """The graph for `--dry_run`: what runs and why, what is reused, tokens and time; and its sum in words.

    Seeds of one node with the same fate are one row; its time is that of one of them.
    """
    running = [step for step in steps if step.task or not step.paths]
    groups: dict[tuple[str, bool, str], list[Step]] = {}
    for step in steps:
        groups.setdefault((graph_lib.without_seed(step.id), step in running, step.why), []).append(step)
    shown = Table(box=None, pad_edge=False)
    for name in ("node", "runs", "", "steps", "tokens", "time", "why"):
        right = name in ("runs", "steps", "tokens", "time")
        # On a narrow terminal names and reasons may take two lines; a number that is cut is another number.
        folds = name in ("node", "why")
        shown.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=not folds)
    for (label, runs, why), members in groups.items():
        first = members[0]
        updates, tokens = (f"{n * len(members):,}" if n else "" for n in (first.updates, first.tokens))
        unknown = first.guessed and first.seconds > estimate.LONGEST_GUESS
        about = "?" if unknown else f"{'~' if first.guessed else ''}{duration(first.seconds)}"
        node = label if len(members) > 1 else first.id
        shown.add_row(
            node, str(len(members)), "run" if runs else "reuse", updates, tokens, about if runs else "", _short(why)
        )
    tasks = [step.task or Task(step.id, "", {}, step.parents, seconds=step.seconds) for step in running]
    updates, tokens = (sum(getattr(step, name) for step in running) for name in ("updates", "tokens"))
    summary = (
        f"{len(running)} to run, {len(steps) - len(running)} reused; "
        f"{updates:,} optimizer steps, {tokens:,} tokens; {_time(running, tasks, slots)}"
    )
    return shown, summary


def _time(running: Sequence[Step], tasks: Sequence[Task], slots: int) -> str:
    if any(step.guessed and step.seconds > estimate.LONGEST_GUESS for step in running):
        return "? is a time that no run in this directory tells yet"
    guess = "; ~ is a first guess, for CPU cores" if any(step.guessed for step in running) else ""
    return f"about {duration(time_left(tasks, slots, {}))} with {slots} side by side{guess}"


def _short(why: str) -> str:
    parts = why.split("; ")
    rest = len(parts) - _WHY_PARTS
    return "; ".join(parts[:_WHY_PARTS]) + (f"; and {rest} more" if rest > 0 else "")
