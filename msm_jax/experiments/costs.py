"""What phases and arms cost: tokens, steps, FLOPs and time."""

import statistics
from collections.abc import Mapping
from typing import Any

from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig, phase_of, step_of
from msm_jax.experiments.finished import Finished

_COST_OF = {
    "tokens": "tokens",
    "steps": "optimizer_steps",
    "flops": "flops",
    "wall_seconds": "wall_seconds",
    "device_seconds": "device_seconds",
}


def of_phases(graph: graph_lib.Graph, finished: Finished) -> dict[str, dict[str, float]]:
    """Returns the sums over all runs of each phase, and their number as "runs"."""
    cost: dict[str, dict[str, float]] = {}
    for phase in graph.phases.values():
        result = finished.phase(phase.id)
        if result is None:
            continue
        entry = cost.setdefault(phase.chain[-1], dict.fromkeys((*_COST_OF.values(), "runs"), 0.0))
        entry["runs"] += 1
        for field, name in _COST_OF.items():
            entry[name] += result[field]
    return cost


def seconds_of_phases(graph: graph_lib.Graph, finished: Finished) -> dict[str, dict[str, float]]:
    """Returns where the time of all runs of each phase went, by `training.goodput`, as far as that is known."""
    sums: dict[str, dict[str, float]] = {}
    for phase in graph.phases.values():
        if finished.phase(phase.id) is not None and (seconds := finished.seconds(phase.id)):
            entry = sums.setdefault(phase.chain[-1], dict.fromkeys(seconds, 0.0))
            for kind, value in seconds.items():
                entry[kind] += value
    return sums


def of_arm(
    config: ExperimentConfig, graph: graph_lib.Graph, finished: Finished, arm: str
) -> dict[str, dict[str, float]]:
    """Returns what one run of an arm cost: its own phases, and all of its chain.

    These are means over the seeds that have finished the arm. A phase that the chain leaves at a step counts with its
    share of the steps; only the tokens of that step are known exactly. Empty where no seed has finished the arm.
    """
    chain = graph.arms[arm]
    own: list[dict[str, float]] = []
    total: list[dict[str, float]] = []
    for seed in config.seeds:
        costs = [_share(graph, finished, chain[: end + 1], seed) for end in range(len(chain))]
        if None in costs:
            continue
        first = _own(config, chain)
        for sums, part in ((own, costs[first:]), (total, costs)):
            sums.append({name: sum(cost[name] for cost in part if cost) for name in _COST_OF.values()})
    if not total:
        return {}
    return {
        field: {name: statistics.fmean(cost[name] for cost in sums) for name in _COST_OF.values()}
        for field, sums in (("own", own), ("total", total))
    }


def _own(config: ExperimentConfig, chain: graph_lib.Chain) -> int:
    """Returns where an arm's own phases begin: after those that all seeds share, unless they are midtraining."""
    for i, phase in enumerate(phase_of(each) for each in chain):
        if phase not in config.shared or phase in config.midtraining:
            return i
    return len(chain)


def since(config: ExperimentConfig, graph: graph_lib.Graph, arm: str, arms: Mapping[str, Any]) -> str:
    """Returns the arm that ends where an arm's own phases begin; "" if there is none with results."""
    chain = graph.arms[arm]
    first = _own(config, chain)
    return next((other for other in arms if first < len(chain) and graph.arms[other] == chain[:first]), "")


def _share(
    graph: graph_lib.Graph, finished: Finished, prefix: tuple[str, ...], seed: int
) -> dict[str, float] | None:
    """Returns what the last phase of a chain cost up to where the chain leaves it; None if it has not finished."""
    run, step = graph.run_of(prefix, seed).id, step_of(prefix[-1])
    result = finished.phase(run)
    if result is None:
        return None
    share = 1.0 if step is None else step / result["steps"]
    cost = {name: share * result[field] for field, name in _COST_OF.items()}
    tokens = finished.tokens(run, step)
    return cost if tokens is None else {**cost, "tokens": tokens}


def tokens_of_arm(
    config: ExperimentConfig, graph: graph_lib.Graph, finished: Finished, arm: str
) -> dict[str, int]:
    """Returns the tokens that an arm read in midtraining and in its last phase, unless that is midtraining itself.

    The phase that a chain starts from scratch with does not count. These are means over the seeds that have finished
    the arm: packing leaves a few slots empty, and not the same number in every seed.
    """
    chain = graph.arms[arm]
    start = 0 if config.checkpoint else 1
    by_seed = []
    for seed in config.seeds:
        prefixes = [chain[:end] for end in range(start + 1, len(chain) + 1)]
        counts = [finished.tokens(graph.run_of(prefix, seed).id, step_of(prefix[-1])) for prefix in prefixes]
        if counts and None not in counts:
            by_seed.append([count for count in counts if count is not None])
    if not by_seed:
        return {}
    means = [round(statistics.fmean(tokens)) for tokens in zip(*by_seed, strict=True)]
    phases = [phase_of(element) for element in chain]
    read = list(zip(phases[start:], means, strict=True))
    tokens = {"midtraining": sum(count for phase, count in read if phase in config.midtraining)}
    return tokens if phases[-1] in config.midtraining else {**tokens, "last": means[-1]}
