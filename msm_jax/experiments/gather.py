"""Reads from the finished nodes of a working directory what the report needs.

This does not depend on how a node was addressed: `nodes.json`, which each run writes, says where every result is. So a
report can be rendered again after the code or the settings have changed, and from an unfinished run.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.analysis import asked
from msm_jax.analysis.asked import ContrastSpec
from msm_jax.errors import InputError
from msm_jax.evals import labels
from msm_jax.evals.interface import MEASURES
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig, phase_of, step_of, substitute
from msm_jax.experiments.nodes import evals as evals_node
from msm_jax.experiments.nodes.interface import DONE
from msm_jax.foundation import settings, storage

RECORD = "nodes.json"
SETTINGS = "experiment.json"


def results(config: ExperimentConfig, workdir: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns the dict that `analysis.report.write` takes, and a line on each result that is missing from it.

    The cost of a phase is the sum over all of its runs, in every arm and seed; `runs` is their number.

    Raises:
      InputError: no eval has a result yet.
    """
    record = storage.find_json(workdir / RECORD)
    if record is None:
        raise InputError(f"{workdir}: nothing to report yet; run msm_jax.experiment first")
    graph = graph_lib.build(config)
    stored = _Stored(record, workdir)
    arms, samples, missing, notes = _arms(config, graph, stored)
    if not any(arms.values()):
        raise InputError(f"{workdir}: no eval has a result yet; run msm_jax.experiment to the end")
    # Short chains first, so that the arm that all others continue is first, whatever the order of the settings.
    order = sorted(arms, key=lambda arm: len(graph.arms[arm]))
    arms = {arm: arms[arm] for arm in order if arms[arm]}
    contrasts, expectations = _what_was_asked(config, arms, missing)
    scored = {name for evals in arms.values() for name in evals}
    chains = {arm: [phase_of(element) for element in chain] for arm, chain in graph.arms.items()}
    trained = {phase for chain in chains.values() for phase in chain}
    return {
        "experiment": config.name,
        "question": config.question,
        "scope": _scope(config),
        "seeds": [_seed(config, seed) for seed in config.seeds],
        "arms": arms,
        "shared_arms": [arm for arm in arms if graph_lib.is_shared(config, graph.arms[arm])],
        "chains": chains,
        "midtraining": [phase for phase in config.midtraining if phase in trained],
        "gates": [name for name in config.gates if name in scored],
        "doses": config.doses,
        "generated": {name: of for name, of in config.generated.items() if {name, of} <= scored},
        "contrasts": contrasts,
        "added": [name for name in (storage.find_json(workdir / SETTINGS) or {}).get("added", ()) if name in contrasts],
        "dose_curves": _dose_curves(config, arms, missing),
        "expectations": expectations,
        "cost": _cost(graph, stored),
        "arm_cost": {
            arm: {**cost, "since": _since(config, graph, arm, arms)}
            for arm in arms
            if (cost := _arm_cost(config, graph, stored, arm))
        },
        "arm_tokens": {arm: _arm_tokens(config, graph, stored, arm) for arm in arms},
        "graph": _nodes(record, graph),
        "curves": _curves(graph, stored),
        "samples": samples,
        "warnings": [*(f"Not finished: {text}." for text in missing), *notes],
        "environment": stored.environment(),
    }, missing


class _Stored:
    """The results that a working directory refers to; reads them by node."""

    def __init__(self, record: Mapping[str, Any], workdir: Path) -> None:
        self._workdir = workdir
        self._paths = {node["id"]: node["path"] for node in record["nodes"] if node["path"]}
        self._evals = record["evals"]
        self._labels: dict[str, dict[str, tuple[str, ...]]] = {}

    def phase(self, node_id: str) -> dict[str, Any] | None:
        """Returns the result of a finished training run."""
        done = storage.find_json(self._workdir / self._paths[node_id] / DONE) if node_id in self._paths else None
        return None if done is None else done["result"]

    def tokens(self, node_id: str, step: int | None) -> int | None:
        """Returns the tokens that a finished training run had read by a step, or by its end for None."""
        result = self.phase(node_id)
        if result is None or step is None:
            return None if result is None else result["tokens"]
        from msm_jax.checkpoints import store

        checkpoint = store.at_step(self._workdir / self._paths[node_id], step)
        return None if checkpoint is None else store.read_info(checkpoint)["totals"]["tokens"]

    def evaluation(self, node_id: str, name: str) -> dict[str, Any] | None:
        """Returns the result of one eval of one checkpoint."""
        path = self._evals.get(node_id, {}).get(name)
        stored = storage.find_json(self._workdir / path) if path else None
        return None if stored is None else stored["result"]

    def labels(self, path: str, items: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]] | None:
        """Returns the labels of items that were scored: their own `cluster`, or else what their file says of them.

        `path` is that of the config; None where it does not tell.
        """
        if any("cluster" in item for item in items):
            return [(f"cluster: {item['cluster']}",) if "cluster" in item else () for item in items]
        path = substitute(path, {name: str(self._workdir / at) for name, at in self._paths.items()})
        if path not in self._labels:
            try:
                self._labels[path] = labels.read(path)
            except InputError:  # the scores are there, and a report of them needs no more; the caller warns
                self._labels[path] = {}
        known = self._labels[path]
        return [known[item["id"]] for item in items] if {item["id"] for item in items} <= set(known) else None

    def curve(self, node_id: str) -> list[dict[str, float]]:
        """Returns step, loss and learning rate of a training run up to its last step so far."""
        if node_id not in self._paths:
            return []
        points: dict[int, dict[str, float]] = {}
        for row in _json_lines(self._workdir / self._paths[node_id] / "metrics.jsonl"):
            if "step" in row and isinstance(row.get("loss"), (int, float)):
                # A run that was continued may have written a step twice; the later row counts.
                points[row["step"]] = {
                    key: row[key] for key in ("step", "loss", "learning_rate") if row.get(key) is not None
                }
        return [points[step] for step in sorted(points)]

    def environment(self) -> dict[str, Any]:
        """Returns versions and device from the first manifest of a training run."""
        for path in self._paths.values():
            manifest = storage.find_json(self._workdir / path / "manifest.json")
            if manifest is not None:
                return {**manifest["versions"], "device": manifest["device_kind"]}
        return {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the complete rows of a JSONL file; the last one may be cut off where its writer was stopped."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _arms(
    config: ExperimentConfig, graph: graph_lib.Graph, stored: _Stored
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], list[str], list[str]]:
    """Returns scores by arm and eval, transcripts of the first seed that has any, a line on each missing result, and a
    warning for each eval whose items are not where their labels would be read."""
    arms: dict[str, dict[str, Any]] = {}
    samples: dict[str, dict[str, Any]] = {}
    missing = []
    unlabelled: dict[str, str] = {}
    for arm, chain in graph.arms.items():
        arms[arm], samples[arm] = {}, {}
        for name, fields in config.evals.items():
            prefixes = graph_lib.measured_after(chain, fields)
            if not prefixes:
                continue
            found = [
                _result(config, graph, stored, prefixes[-1][0], seed, first=index == 0, name=name)
                for index, seed in enumerate(config.seeds)
            ]
            shared = graph_lib.is_shared(config, prefixes[-1][0])
            lacking = [str(seed) for seed, result in zip(config.seeds, found, strict=True) if result is None][
                : 0 if shared and found[0] else None
            ]
            if lacking:
                missing.append(f"{name} of {arm} in seed {', '.join(lacking)}")
            done = [result for result in found if result is not None]
            if done:
                arms[arm][name] = _scores(done if graph_lib.is_shared(config, chain) else found, done)
                shared_by = stored.labels(prefixes[-1][1], done[0]["items"])
                arms[arm][name]["labels"] = shared_by or []
                if shared_by is None and prefixes[-1][1]:
                    unlabelled.setdefault(name, prefixes[-1][1])
                transcripts = [result["transcripts"] for result in done if result["transcripts"]]
                samples[arm][name] = transcripts[0] if transcripts else []
    notes = [
        f"{name}: its items are not in {path}, so it is unknown what they share; intervals treat them as "
        "independent."
        for name, path in unlabelled.items()
    ]
    return arms, samples, missing, notes


def _result(
    config: ExperimentConfig,
    graph: graph_lib.Graph,
    stored: _Stored,
    chain: tuple[str, ...],
    seed: int,
    first: bool,
    name: str,
) -> dict[str, Any] | None:
    """Returns the result of an eval after `chain`; a run that all seeds share counts for the first seed."""
    own = graph_lib.seed_of(config, chain, seed)
    if own is None and not first:
        return None
    return stored.evaluation(graph.measurements[chain, own].id, name)


def _scores(found: Sequence[dict[str, Any] | None], done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def column(field: str) -> list[list[float | None] | None]:
        return [None if result is None else [item[field] for item in result["items"]] for result in found]

    entry: dict[str, Any] = {"per_seed": column("score"), "item_ids": [item["id"] for item in done[0]["items"]]}
    entry["measures"] = {
        measure: column(field)
        for measure, field in MEASURES.items()
        if all(field in item for result in done for item in result["items"])
    }
    rates = [result["parse_rate"] for result in done if result["parse_rate"] is not None]
    if rates:
        entry["parse_rate"] = statistics.fmean(rates)
    return entry


def _what_was_asked(
    config: ExperimentConfig, arms: Mapping[str, Any], missing: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the contrasts and expectations whose arms have results; adds the other contrasts to `missing`."""

    def scored(contrast: ContrastSpec) -> bool:
        entries = [arms.get(arm, {}).get(contrast.eval) for arm in contrast.arms()]
        return all(entry and contrast.measure in ("share", *entry["measures"]) for entry in entries)

    contrasts = {}
    for name, contrast in config.contrasts.items():
        if all(scored(member) for member in asked.members_of(name, config.contrasts)):
            contrasts[name] = settings.to_json(contrast)
        else:
            missing.append(f"contrast {name}")
    expectations = {}
    for name, wanted in config.expectations.items():
        having = [arm for arm, evals in arms.items() if (wanted.eval or name) in evals]
        if name in contrasts or (
            name not in config.contrasts and (wanted.arm or having[:1]) and (not wanted.arm or wanted.arm in having)
        ):
            expectations[name] = settings.to_json(wanted)
    return contrasts, expectations


def _dose_curves(config: ExperimentConfig, arms: Mapping[str, Any], missing: list[str]) -> dict[str, Any]:
    """Returns the dose curves whose arms have results; adds the others to `missing`."""
    curves = {}
    for name, spec in config.curves.items():
        if all(on in arms.get(arm, {}) for arm in spec.arms() for on in spec.evals):
            curves[name] = settings.to_json(spec)
        else:
            missing.append(f"curves {name}")
    return curves


def _scope(config: ExperimentConfig) -> str:
    start = "one checkpoint and " if config.checkpoint else "one pretraining and " if config.shared else ""
    return f"given {start}{'one world' if config.world['kind'] != 'none' else 'one set of documents and chats'}"


def _seed(config: ExperimentConfig, seed: int) -> dict[str, int | None]:
    """Returns world, pretraining and seed of one replicate; `pretrain` is the seed of the phase that all chains start
    with, None without such a phase."""
    roots = {phase_of(chain[0]) for chain in config.arms.values() if chain}
    pretrain = None
    if not config.checkpoint and len(roots) == 1:
        (root,) = roots
        pretrain = graph_lib.phase_seed(config, root, graph_lib.seed_of(config, (root,), seed))
    return {"world": config.world.get("seed"), "pretrain": pretrain, "seed": seed}


def _cost(graph: graph_lib.Graph, stored: _Stored) -> dict[str, dict[str, float]]:
    cost: dict[str, dict[str, float]] = {}
    for phase in graph.phases.values():
        result = stored.phase(phase.id)
        if result is None:
            continue
        entry = cost.setdefault(phase.chain[-1], dict.fromkeys((*_COST_OF.values(), "runs"), 0.0))
        entry["runs"] += 1
        for field, name in _COST_OF.items():
            entry[name] += result[field]
    return cost


_COST_OF = {
    "tokens": "tokens",
    "steps": "optimizer_steps",
    "flops": "flops",
    "wall_seconds": "wall_seconds",
    "device_seconds": "device_seconds",
}


def _arm_cost(
    config: ExperimentConfig, graph: graph_lib.Graph, stored: _Stored, arm: str
) -> dict[str, dict[str, float]]:
    """Returns what one run of an arm cost: its own phases, and all of its chain.

    These are means over the seeds that have finished the arm. A phase that the chain leaves at a step counts with its
    share of the steps; only the tokens of that step are known exactly. Empty where no seed has finished the arm.
    """
    chain = graph.arms[arm]
    own: list[dict[str, float]] = []
    total: list[dict[str, float]] = []
    for seed in config.seeds:
        costs = [_share(graph, stored, chain[: end + 1], seed) for end in range(len(chain))]
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


def _since(config: ExperimentConfig, graph: graph_lib.Graph, arm: str, arms: Mapping[str, Any]) -> str:
    """Returns the arm that ends where an arm's own phases begin; "" if there is none with results."""
    chain = graph.arms[arm]
    first = _own(config, chain)
    return next((other for other in arms if first < len(chain) and graph.arms[other] == chain[:first]), "")


def _share(
    graph: graph_lib.Graph, stored: _Stored, prefix: tuple[str, ...], seed: int
) -> dict[str, float] | None:
    """Returns what the last phase of a chain cost up to where the chain leaves it; None if it has not finished."""
    run, step = graph.run_of(prefix, seed).id, step_of(prefix[-1])
    result = stored.phase(run)
    if result is None:
        return None
    share = 1.0 if step is None else step / result["steps"]
    cost = {name: share * result[field] for field, name in _COST_OF.items()}
    tokens = stored.tokens(run, step)
    return cost if tokens is None else {**cost, "tokens": tokens}


def _arm_tokens(
    config: ExperimentConfig, graph: graph_lib.Graph, stored: _Stored, arm: str
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
        counts = [stored.tokens(graph.run_of(prefix, seed).id, step_of(prefix[-1])) for prefix in prefixes]
        if counts and None not in counts:
            by_seed.append([count for count in counts if count is not None])
    if not by_seed:
        return {}
    means = [round(statistics.fmean(tokens)) for tokens in zip(*by_seed, strict=True)]
    phases = [phase_of(element) for element in chain]
    read = list(zip(phases[start:], means, strict=True))
    tokens = {"midtraining": sum(count for phase, count in read if phase in config.midtraining)}
    return tokens if phases[-1] in config.midtraining else {**tokens, "last": means[-1]}


def _curves(graph: graph_lib.Graph, stored: _Stored) -> dict[str, list[list[dict[str, float]]]]:
    """Returns {chain as a label: the learning curve of each run that has one}."""
    curves: dict[str, list[list[dict[str, float]]]] = {}
    for phase in graph.phases.values():
        if curve := stored.curve(phase.id):
            curves.setdefault("/".join(phase.chain), []).append(curve)
    return curves


def _nodes(record: Mapping[str, Any], graph: graph_lib.Graph) -> list[dict[str, Any]]:
    """Returns the nodes that have a result, with the edges between them, labelled by their chains."""
    shown = [node for node in record["nodes"] if node["status"] in ("ran", "reused")]
    known = {node["id"] for node in shown}
    chains = {node.id: "/".join(node.chain) for node in graph.phases.values()}
    chains |= {node.id: "/".join(node.chain) for node in graph.measurements.values()}
    return [
        {key: node[key] for key in ("id", "kind", "status", "seconds")}
        | {"label": chains.get(node["id"]) or node["label"]}
        | {"parents": [parent for parent in node["parents"] if parent in known]}
        for node in shown
    ]


def write_samples(config: ExperimentConfig, workdir: Path) -> None:
    """Writes `samples/<arm>/<seed>/<eval>.jsonl`: every item with its score, its prompt and the reply.

    The samples of a run that all seeds share are in `samples/<arm>/shared/`.
    """
    graph = graph_lib.build(config)
    stored = _Stored(storage.find_json(workdir / RECORD), workdir)
    for arm, chain in graph.arms.items():
        for name, fields in config.evals.items():
            for prefix, _ in graph_lib.measured_after(chain, fields)[-1:]:
                for own in dict.fromkeys(graph_lib.seed_of(config, prefix, seed) for seed in config.seeds):
                    result = stored.evaluation(graph.measurements[prefix, own].id, name)
                    if result is None:
                        continue
                    directory = workdir / "samples" / arm / ("shared" if own is None else str(own))
                    storage.write_text(directory / f"{name}.jsonl", evals_node.samples(result))
