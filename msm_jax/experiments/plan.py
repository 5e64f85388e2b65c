"""The plan of a run: for every node, whether its results exist, why it runs if they do not, and what it will take."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from msm_jax.experiments import estimate, nodes, reasons
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.context import Context
from msm_jax.experiments.live import duration
from msm_jax.experiments.nodes import execute
from msm_jax.experiments.nodes.interface import DONE, Address, Cost, Node
from msm_jax.experiments.scheduler import Task, time_left
from msm_jax.foundation import hashing, settings, storage

_EXECUTE = f"{execute.__name__}:{execute.run.__name__}"
_WHY_PARTS = 3


@dataclasses.dataclass(frozen=True)
class Step:
    """One node in one run.

    Attributes:
        node: the node.
        paths: its results: {"": directory}, or {eval: file}; empty where its address is not known yet.
        task: None where all results exist.
        why: why it runs.
        cost: what it will take; for a node that is reused, the seconds that it took.
    """

    node: Node
    paths: Mapping[str, Path]
    task: Task | None
    why: str
    cost: Cost

    @property
    def kind(self) -> str:
        """The kind for the report, where the world is of kind "world" and other generated files are a "corpus"."""
        is_corpus = self.node.is_content and self.node.kind != graph_lib.TOKENIZER
        return self.node.kind if not is_corpus else graph_lib.WORLD if self.node.id == graph_lib.WORLD else "corpus"

    @property
    def label(self) -> str:
        """The node's name without its kind."""
        return self.node.id.removeprefix(f"{self.kind}/")


class Planner:
    """Plans runs of one experiment, whose results lie in a store."""

    def __init__(
        self,
        config: ExperimentConfig,
        store: Path,
        executors: Mapping[str, str],
        files: dict[str, list[str]] | None = None,
    ) -> None:
        """Builds the graph.

        Args:
            config: the experiment.
            store: the directory of all results.
            executors: {kind of node: "module:function" that runs it in place of the kind's own}.
            files: the files of data paths that were resolved before.
        """
        self.config = config
        self.store = store
        self.graph = graph_lib.build(config)
        self._executors = executors
        self._files = {} if files is None else files
        self._rates = estimate.measured(store)

    def plan(self) -> tuple[list[Step], Context]:
        """Returns a step for each node, and what is known.

        While a corpus or the tokenizer is missing, the steps after it have no address; see `is_addressed`.

        Raises:
            InputError: settings are refused, or a file that a node reads is missing.
        """
        context = Context(self.config, self.graph, self.store, self._rates, self._files)
        missing: dict[str, dict[str, Address]] = {}
        waits_for = ""
        for node in self.graph.nodes:
            if waits_for and not (node.is_content and set(node.parents) <= context.directories.keys()):
                continue
            kind = nodes.find(node.kind)
            context.read_by(node.id)
            context.addresses[node.id] = found = kind.results(node, context)
            missing[node.id] = {name: address for name, address in found.items() if not kind.is_done(address)}
            if node.is_content and not missing[node.id]:
                context.directories[node.id] = str(found[""].path)
            elif node.is_content:
                waits_for = waits_for or node.id
        if waits_for:
            return self.unaddressed(context, missing, waits_for), context
        checks = self._checks(missing)
        return [self._step(node, context, missing[node.id], checks) for node in self._shown(checks)], context

    def unaddressed(
        self, context: Context, missing: Mapping[str, Mapping[str, Address]], waits_for: str
    ) -> list[Step]:
        """Returns the steps of nodes that have an address, and of the others what their settings say: all may run."""
        first = f"after the {waits_for}" if waits_for and any(self.store.glob("phases/*")) else "new"
        steps = []
        for node in self._shown({}):
            if node.id in missing:
                steps.append(self._step(node, context, missing[node.id], {}))
                continue
            kind = nodes.find(node.kind)
            kind.check(node, context)
            cost = kind.cost(node, {}, context)
            task = Task(node.id, "", {}, node.parents, cost.devices, cost.threads, cost.seconds)
            why = f"after the {waits_for}" if node.is_content else first
            steps.append(Step(node, {}, task, why, cost))
        return steps

    def _checks(self, missing: Mapping[str, Mapping[str, Address]]) -> dict[str, tuple[str, ...]]:
        """Returns the checks that run before each node that runs: all checks that any of these nodes needs."""
        checks = [node for node in self.graph.nodes if any(missing[each] for each in node.before)]
        ids = tuple(node.id for node in checks)
        return {each: ids for node in checks for each in node.before}

    def _shown(self, checks: Mapping[str, tuple[str, ...]]) -> list[Node]:
        running = {check for ids in checks.values() for check in ids}
        return [node for node in self.graph.nodes if not node.before or node.id in running]

    def _step(
        self, node: Node, context: Context, missing: Mapping[str, Address], checks: Mapping[str, tuple[str, ...]]
    ) -> Step:
        kind, found = nodes.find(node.kind), context.addresses[node.id]
        paths = {name: address.path for name, address in found.items()}
        cost = kind.cost(node, missing, context)
        if found and not missing:
            seconds = [(storage.find_json(path / DONE) or {}).get("seconds", cost.seconds) for path in paths.values()]
            return Step(node, paths, None, "", dataclasses.replace(cost, seconds=max(seconds), is_measured=True))
        place = next(iter(paths.values()), None)
        lock = place and self.store / "locks" / (place.parent if place.suffix == ".json" else place).name
        args = {
            "kind": node.kind,
            "call": self._executors.get(node.kind, ""),
            "arguments": kind.arguments(node, missing, context),
            "results": execute.to_json(missing),
            "reads": context.reads.get(node.id, {}),
            "lock": str(lock or ""),
        }
        after = (*node.parents, *checks.get(node.id, ()))
        task = Task(node.id, _EXECUTE, args, after, cost.devices, cost.threads, cost.seconds)
        why = reasons.of_node(missing, len(missing) == len(found)) if found else "before the first phase"
        return Step(node, paths, task, why, cost)


def is_addressed(steps: Sequence[Step]) -> bool:
    """Returns whether the addresses of all nodes with results are known."""
    return all(step.paths or step.node.before for step in steps)


def report_address(context: Context, workdir: Path) -> Address:
    """Returns the address of the report, whose description is stored in `report.node.json`."""
    asked = settings.to_json(context.config)
    del asked["workers"]
    payload = {
        "config": asked,
        "results": {each.id: each.hash for found in context.addresses.values() for each in found.values()},
        "sources": {
            **hashing.sources_of("msm_jax.analysis.report"),
            **hashing.sources_of("msm_jax.experiments.gather"),
        },
    }
    return Address(graph_lib.REPORT, payload, workdir / "report.node.json")


def table(steps: Sequence[Step], slots: int) -> tuple[Table, str]:
    """Returns the graph for `--dry_run` (what runs and why, what is reused, what it takes), and its sum in words.

    Seeds of one node that are treated alike are one row; its time is that of one of them.
    """
    running = [step for step in steps if step.task]
    groups: dict[tuple[str, bool, str], list[Step]] = {}
    for step in steps:
        groups.setdefault((graph_lib.without_seed(step.node.id), step in running, step.why), []).append(step)
    dollars = sum(step.cost.dollars for step in running)
    shown = Table(box=None, pad_edge=False)
    for name in ("node", "runs", "", "steps", "tokens", "time", *(("cost",) if dollars else ()), "why"):
        right = name in ("runs", "steps", "tokens", "time", "cost")
        # On a narrow terminal names and reasons may take two lines; a number that is cut is another number.
        folds = name in ("node", "why")
        shown.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=not folds)
    for (label, runs, why), members in groups.items():
        count, cost = len(members), members[0].cost
        updates, tokens = (f"{n * count:,}" if n else "" for n in (cost.updates, cost.tokens))
        mark = "≥" if cost.is_bound else "" if cost.is_measured else "~"
        about = "?" if _is_unknown(cost) else f"{mark}{duration(cost.seconds)}"
        if cost.is_bound and not cost.seconds:
            about = ""
        price = (f"${count * cost.dollars:,.2f}" if runs and cost.dollars else "",) if dollars else ()
        cells = (updates, tokens, about if runs else "", *price, _short(why))
        node = label if count > 1 else members[0].node.id
        shown.add_row(node, str(count), "run" if runs else "reuse", *cells)
    updates, tokens = (sum(getattr(step.cost, name) for step in running) for name in ("updates", "tokens"))
    summary = (
        f"{len(running)} to run, {len(steps) - len(running)} reused; {updates:,} optimizer steps, {tokens:,} tokens; "
        f"{f'${dollars:,.2f}; ' if dollars else ''}{_time(running, slots)}"
    )
    return shown, summary


def _is_unknown(cost: Cost) -> bool:
    return not (cost.is_measured or cost.is_bound) and cost.seconds > estimate.LONGEST_GUESS


def _time(running: Sequence[Step], slots: int) -> str:
    if any(_is_unknown(step.cost) for step in running):
        return "? is a time that cannot be estimated before a first run; with `accelerator` set, it is bounded"
    if any(step.cost.is_bound for step in running):
        # One process holds the accelerators, so that its nodes run one after the other.
        hours = sum(step.cost.seconds for step in running) / 3600
        chips = sum(step.cost.seconds * step.cost.devices for step in running) / 3600
        return f"at least {hours:,.1f} h, {chips:,.1f} chip-hours"
    guess = "" if all(step.cost.is_measured for step in running) else "; ~ is a first guess, for CPU cores"
    tasks = [step.task for step in running if step.task]
    return f"about {duration(time_left(tasks, slots, {}))} with {slots} side by side{guess}"


def _short(why: str) -> str:
    parts = why.split("; ")
    rest = len(parts) - _WHY_PARTS
    return "; ".join(parts[:_WHY_PARTS]) + (f"; and {rest} more" if rest > 0 else "")
