"""What the report needs, read from the finished nodes of a working directory.

Nothing here depends on how a node was addressed: `nodes.json`, written by each run, says where every result
lies. So a report can be rendered again after the code or the settings have changed, and from an unfinished
run.
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.address import DONE
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.files import read_json, write_text

RECORD = "nodes.json"


def results(config: ExperimentConfig, workdir: Path) -> tuple[dict[str, Any], list[str]]:
    """The dict that `analysis.report.write` takes, and what is missing from it, in words.

    Cost is summed over all runs of a phase's name, in every arm and seed; `runs` counts them.

    Raises:
      InputError: no eval has a result yet.
    """
    record = read_json(workdir / RECORD)
    if record is None:
        raise InputError(f"{workdir}: nothing to report yet; run msm_jax.experiment first")
    graph = graph_lib.build(config)
    stored = _Stored(record, workdir)
    arms, samples, missing = _arms(config, graph, stored)
    if not any(arms.values()):
        raise InputError(f"{workdir}: no eval has a result yet; run msm_jax.experiment to the end")
    # Short chains first: what every arm starts from leads, whatever order the settings were read in.
    order = sorted(arms, key=lambda arm: len(config.arms[arm]))
    arms = {arm: arms[arm] for arm in order if arms[arm]}
    contrasts, expectations = _what_was_asked(config, arms, missing)
    return {
        "experiment": config.name,
        "question": config.question,
        "scope": _scope(config),
        "seeds": [_seed(config, seed) for seed in config.seeds],
        "arms": arms,
        "shared_arms": [arm for arm in arms if _is_shared(config, config.arms[arm])],
        "contrasts": contrasts,
        "expectations": expectations,
        "cost": _cost(graph, stored),
        "arm_tokens": {arm: _arm_tokens(config, graph, stored, arm) for arm in arms},
        "graph": _nodes(record),
        "curves": {
            phase.id.removeprefix("phase/"): curve
            for phase in graph.phases.values()
            if (curve := stored.curve(phase.id))
        },
        "samples": samples,
        "gates": list(config.gates),
        "warnings": [f"Not finished: {text}." for text in missing],
        "environment": stored.environment(),
    }, missing


class _Stored:
    """The results that a working directory holds, by node."""

    def __init__(self, record: Mapping[str, Any], workdir: Path) -> None:
        self._workdir = workdir
        self._paths = {node["id"]: node["path"] for node in record["nodes"] if node["path"]}
        self._evals = record["evals"]

    def phase(self, node_id: str) -> dict[str, Any] | None:
        """The result of a finished training run."""
        done = read_json(self._workdir / self._paths[node_id] / DONE) if node_id in self._paths else None
        return None if done is None else done["result"]

    def evaluation(self, node_id: str, name: str) -> dict[str, Any] | None:
        """The result of one eval of one checkpoint."""
        path = self._evals.get(node_id, {}).get(name)
        stored = read_json(self._workdir / path) if path else None
        return None if stored is None else stored["result"]

    def curve(self, node_id: str) -> list[dict[str, float]]:
        """Step, loss and learning rate of a training run, as far as it has come."""
        if node_id not in self._paths:
            return []
        points: dict[int, dict[str, float]] = {}
        for row in _json_lines(self._workdir / self._paths[node_id] / "metrics.jsonl"):
            if "step" in row and isinstance(row.get("loss"), (int, float)):
                # A run that was continued may have written a step twice: the later one counts.
                points[row["step"]] = {
                    key: row[key] for key in ("step", "loss", "learning_rate") if row.get(key) is not None
                }
        return [points[step] for step in sorted(points)]

    def environment(self) -> dict[str, Any]:
        """Versions and device of the first training run that says so."""
        for path in self._paths.values():
            manifest = read_json(self._workdir / path / "manifest.json")
            if manifest is not None:
                return {**manifest["versions"], "device": manifest["device_kind"]}
        return {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a JSONL file that a process may have been stopped while writing."""
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
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], list[str]]:
    """Scores per arm and eval, transcripts of the first seed that has some, and what has no result."""
    arms: dict[str, dict[str, Any]] = {}
    samples: dict[str, dict[str, Any]] = {}
    missing = []
    for arm, chain in config.arms.items():
        arms[arm], samples[arm] = {}, {}
        for name, fields in config.evals.items():
            prefixes = graph_lib.measured_after(chain, fields)
            if not prefixes:
                continue
            found = [
                _result(config, graph, stored, prefixes[-1][0], seed, first=index == 0, name=name)
                for index, seed in enumerate(config.seeds)
            ]
            shared = _is_shared(config, prefixes[-1][0])
            lacking = [str(seed) for seed, result in zip(config.seeds, found, strict=True) if result is None][
                : 0 if shared and found[0] else None
            ]
            if lacking:
                missing.append(f"{name} of {arm} in seed {', '.join(lacking)}")
            done = [result for result in found if result is not None]
            if done:
                arms[arm][name] = _scores(found, done)
                transcripts = [result["transcripts"] for result in done if result["transcripts"]]
                samples[arm][name] = transcripts[0] if transcripts else []
    return arms, samples, missing


def _result(
    config: ExperimentConfig,
    graph: graph_lib.Graph,
    stored: _Stored,
    chain: tuple[str, ...],
    seed: int,
    first: bool,
    name: str,
) -> dict[str, Any] | None:
    """The result of an eval after `chain`; a run that all seeds share belongs to the first."""
    own = graph_lib.seed_of(config, chain, seed)
    if own is None and not first:
        return None
    return stored.evaluation(graph.measurements[chain, own].id, name)


def _scores(found: list[dict[str, Any] | None], done: list[dict[str, Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "per_seed": [result and [item["score"] for item in result["items"]] for result in found],
        "item_ids": [item["id"] for item in done[0]["items"]],
    }
    rates = [result["parse_rate"] for result in done if result["parse_rate"] is not None]
    if rates:
        entry["parse_rate"] = statistics.fmean(rates)
    return entry


def _is_shared(config: ExperimentConfig, chain: tuple[str, ...]) -> bool:
    return all(phase in config.shared for phase in chain)


def _what_was_asked(
    config: ExperimentConfig, arms: Mapping[str, Any], missing: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contrasts and expectations whose arms have results; the others join `missing`."""
    contrasts = {}
    for name, contrast in config.contrasts.items():
        if all(contrast.eval in arms.get(arm, {}) for arm in contrast.terms):
            contrasts[name] = {
                "eval": contrast.eval,
                "terms": dict(contrast.terms),
                "sentence": contrast.sentence,
            }
        else:
            missing.append(f"contrast {name}")
    expectations = {}
    for name, wanted in config.expectations.items():
        having = [arm for arm, evals in arms.items() if name in evals]
        if name in contrasts or (
            name not in config.contrasts and (wanted.arm or having[:1]) and (not wanted.arm or wanted.arm in having)
        ):
            expectations[name] = {
                "min": wanted.min,
                "above_zero": wanted.above_zero,
                "inside": wanted.inside,
                "arm": wanted.arm,
                "sentence": wanted.sentence,
            }
    return contrasts, expectations


def _scope(config: ExperimentConfig) -> str:
    given = []
    if config.checkpoint:
        given.append("one checkpoint")
    elif config.shared:
        given.append("one pretraining")
    given.append("one world" if config.world["kind"] != "none" else "one set of documents and chats")
    return f"given {' and '.join(given)}"


def _seed(config: ExperimentConfig, seed: int) -> dict[str, int | None]:
    """World, pretraining and seed of one replicate; `pretrain` is the seed of the chains' first run."""
    roots = {chain[0] for chain in config.arms.values() if chain}
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


def _arm_tokens(
    config: ExperimentConfig, graph: graph_lib.Graph, stored: _Stored, arm: str
) -> dict[str, int]:
    """Tokens that an arm's last phase read, and the phases between it and the one that the chain starts from.

    Means over the seeds that have come to the arm's end: packing leaves a few slots empty, others in every seed.
    """
    chain = config.arms[arm]
    by_seed = []
    for seed in config.seeds:
        prefixes = [chain[:end] for end in range(1, len(chain) + 1)]
        results = [stored.phase(graph.phases[p, graph_lib.seed_of(config, p, seed)].id) for p in prefixes]
        after_start = results if config.checkpoint else results[1:]
        if after_start and None not in after_start:
            by_seed.append([result["tokens"] for result in after_start if result])
    if not by_seed:
        return {}
    means = [round(statistics.fmean(tokens)) for tokens in zip(*by_seed, strict=True)]
    return {"last": means[-1], "midtraining": sum(means[:-1])}


def _nodes(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The graph's nodes that have a result, with edges between them."""
    shown = [node for node in record["nodes"] if node["status"] in ("ran", "reused")]
    known = {node["id"] for node in shown}
    return [
        {key: node[key] for key in ("id", "kind", "label", "status", "seconds")}
        | {"parents": [parent for parent in node["parents"] if parent in known]}
        for node in shown
    ]


def write_samples(config: ExperimentConfig, workdir: Path) -> None:
    """Write `samples/<arm>/<seed>/<eval>.jsonl`: every item with its score and what was asked and answered.

    A run that all seeds share is written as `samples/<arm>/shared/`.
    """
    graph = graph_lib.build(config)
    stored = _Stored(read_json(workdir / RECORD), workdir)
    for arm, chain in config.arms.items():
        for name, fields in config.evals.items():
            for prefix, _ in graph_lib.measured_after(chain, fields)[-1:]:
                for own in dict.fromkeys(graph_lib.seed_of(config, prefix, seed) for seed in config.seeds):
                    result = stored.evaluation(graph.measurements[prefix, own].id, name)
                    if result is None:
                        continue
                    directory = workdir / "samples" / arm / ("shared" if own is None else str(own))
                    directory.mkdir(parents=True, exist_ok=True)
                    rows = result["transcripts"] or result["items"]
                    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                    write_text(directory / f"{name}.jsonl", text)
