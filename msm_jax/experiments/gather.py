"""Reads from the finished nodes of a working directory what the report needs.

This does not depend on how a node was addressed: `nodes.json`, which each run writes, says where every result is. So a
report can be rendered again after the code or the settings have changed, and from an unfinished run.
"""

import contextlib
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.analysis import asked
from msm_jax.analysis.asked import ContrastSpec
from msm_jax.errors import InputError
from msm_jax.evals import code_book, codes, kinds
from msm_jax.evals.interface import MEASURES
from msm_jax.experiments import costs, inspect_logs, reading
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig, book_of, phase_of
from msm_jax.experiments.finished import Finished
from msm_jax.experiments.nodes import evals as evals_node
from msm_jax.foundation import settings, storage

RECORD = "nodes.json"
SETTINGS = "experiment.json"


def elsewhere(workdir: Path) -> list[str]:
    """Returns the URLs of the directories with results in a store at a URL, which lie elsewhere than `workdir`."""
    record = storage.find_json(workdir / RECORD) or {"nodes": [], "evals": {}}
    paths = [node["path"] for node in record["nodes"] if node["path"]]
    paths += [path.rpartition("/")[0] for files in record["evals"].values() for path in files.values()]
    return sorted({path for path in paths if storage.is_url(path)})


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
    finished = Finished(record, workdir)
    arms, samples, missing, notes = _arms(config, graph, finished)
    if not any(arms.values()):
        raise InputError(f"{workdir}: no eval has a result yet; run msm_jax.experiment to the end")
    # Short chains first, so that the arm that all others continue is first, whatever the order of the settings.
    order = sorted(arms, key=lambda arm: len(graph.arms[arm]))
    arms = {arm: arms[arm] for arm in order if arms[arm]}
    contrasts, expectations = _what_was_asked(config, arms, missing)
    scored = {name for evals in arms.values() for name in evals}
    with_reasons = {name for evals in arms.values() for name, entry in evals.items() if "reasons" in entry}
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
        "reference": _references(config, arms),
        "cost": costs.of_phases(graph, finished),
        "goodput": costs.seconds_of_phases(graph, finished),
        "arm_cost": {
            arm: {**cost, "since": costs.since(config, graph, arm, arms)}
            for arm in arms
            if (cost := costs.of_arm(config, graph, finished, arm))
        },
        "arm_tokens": {arm: costs.tokens_of_arm(config, graph, finished, arm) for arm in arms},
        "graph": _nodes(record, graph),
        "curves": _curves(graph, finished),
        "codes": _codes(config, finished, with_reasons),
        "samples": samples,
        "warnings": [*(f"Not finished: {text}." for text in missing), *notes, *reading.notes(graph, finished)],
        "environment": finished.environment(),
    }, missing


def _arms(
    config: ExperimentConfig, graph: graph_lib.Graph, finished: Finished
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
                _result(config, graph, finished, prefixes[-1][0], seed, first=index == 0, name=name)
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
                arms[arm][name] = scores(done if graph_lib.is_shared(config, chain) else found, done)
                shared_by = finished.labels(prefixes[-1][1], done[0]["items"])
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
    finished: Finished,
    chain: tuple[str, ...],
    seed: int,
    first: bool,
    name: str,
) -> dict[str, Any] | None:
    """Returns the result of an eval after `chain`; a run that all seeds share counts for the first seed."""
    if graph_lib.seed_of(config, chain, seed) is None and not first:
        return None
    return finished.evaluation(graph.measurement(chain, seed, name).id, name)


def scores(found: Sequence[Mapping[str, Any] | None], done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what a report needs of one eval of one arm, without labels; see `analysis.results`.

    Args:
      found: the result of each seed, as `EvalResult.to_json` gives it, or None.
      done: those that exist, at least one.
    """
    def column(field: str) -> list[list[float | None] | None]:
        return [None if result is None else [item[field] for item in result["items"]] for result in found]

    entry: dict[str, Any] = {"per_seed": column("score"), "item_ids": [item["id"] for item in done[0]["items"]]}
    entry["measures"] = {
        measure: column(field)
        for measure, field in MEASURES.items()
        if all(field in item for result in done for item in result["items"])
    }
    if all("cell" in item for result in done for item in result["items"]):
        entry["cells"] = [item["cell"] for item in done[0]["items"]]
    if all("act" in item for result in done for item in result["items"]):
        entry["acts"] = column("act")
    if all(isinstance(item.get("reasons"), Mapping) for result in done for item in result["items"]):
        given = [None if result is None else [item["reasons"] for item in result["items"]] for result in found]
        entry["reasons"] = {
            reason: [None if row is None else [each[reason] for each in row] for row in given]
            for reason in done[0]["items"][0]["reasons"]
        }
    rates = [result["parse_rate"] for result in done if result["parse_rate"] is not None]
    if rates:
        entry["parse_rate"] = statistics.fmean(rates)
    # Results of earlier versions have none.
    every = [result.get("rates", {}) for result in done]
    named = dict.fromkeys(name for rated in every for name in rated)
    entry["rates"] = {name: statistics.fmean(rated[name] for rated in every if name in rated) for name in named}
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


def _references(config: ExperimentConfig, arms: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the references with the levels of those arms alone that have results on their evals."""
    found = []
    for each in config.reference:
        levels = {arm: level for arm, level in each.levels.items() if each.eval in arms.get(arm, {})}
        if levels:
            found.append({"eval": each.eval, "source": each.source, "levels": levels})
    return found


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


def _curves(graph: graph_lib.Graph, finished: Finished) -> dict[str, list[list[dict[str, float]]]]:
    """Returns {chain as a label: the learning curve of each run that has one}."""
    curves: dict[str, list[list[dict[str, float]]]] = {}
    for phase in graph.phases.values():
        if curve := finished.curve(phase.id):
            curves.setdefault("/".join(phase.chain), []).append(curve)
    return curves


def _codes(config: ExperimentConfig, finished: Finished, evals: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Returns the code book of each of these evals; none where its file is gone."""
    found = {}
    for name in evals:
        book = book_of(config, name)
        of_node = f"{graph_lib.CODE_BOOK}/{book}"
        path = str(finished.directory(of_node) / code_book.FILE) if book else kinds.path_of(config.evals[name])
        with contextlib.suppress(InputError):  # the rates are there, and a report of them needs no definitions
            found[name] = [settings.to_json(code) for code in codes.read(path)]
    return found


def _nodes(record: Mapping[str, Any], graph: graph_lib.Graph) -> list[dict[str, Any]]:
    """Returns the nodes that have a result, with the edges between them, labelled by their chains."""
    shown = [node for node in record["nodes"] if node["status"] in ("ran", "reused")]
    known = {node["id"] for node in shown}
    chains = {node.id: "/".join(node.chain) for node in graph.phases.values()}
    chains |= {node.id: node.label for node in graph.measurements.values()}
    return [
        {key: node[key] for key in ("id", "kind", "status", "seconds")}
        | {"label": chains.get(node["id"]) or node["label"]}
        | {"parents": [parent for parent in node["parents"] if parent in known]}
        for node in shown
    ]


def write_transcripts(config: ExperimentConfig, workdir: Path) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Writes every item with its score, its prompt and the reply, and where replies exist a log for `inspect view`.

    They are `samples/ARM/SEED/EVAL.jsonl` and `inspect/ARM/SEED/EVAL-HASH12.eval`, where SEED is "shared" for a run
    that all seeds share. A log that exists is not written again, and those of earlier results are removed. Without
    Inspect there are no new logs.

    Returns {arm: {eval: the files of each seed: "seed", "samples" and where there is one "log"}}, paths in `workdir`.
    """
    graph = graph_lib.build(config)
    finished = Finished(storage.find_json(workdir / RECORD), workdir)
    written: dict[str, dict[str, list[dict[str, str]]]] = {}
    for arm, chain in graph.arms.items():
        for name, fields in config.evals.items():
            for prefix, _ in graph_lib.measured_after(chain, fields)[-1:]:
                for own in dict.fromkeys(graph_lib.seed_of(config, prefix, seed) for seed in config.seeds):
                    node_id = graph.measurement(prefix, own, name).id
                    result = finished.evaluation(node_id, name)
                    if result is None:
                        continue
                    seed = "shared" if own is None else str(own)
                    samples = Path("samples", arm, seed, f"{name}.jsonl")
                    storage.write_text(workdir / samples, evals_node.samples(result))
                    files = {"seed": seed, "samples": samples.as_posix()}
                    source = finished.source(node_id, name)
                    log = Path("inspect", arm, seed, f"{source.stem}.eval")
                    if result["transcripts"] and inspect_logs.can_write():
                        task, made = settings.to_json(fields), source.stat().st_mtime
                        _write_log(workdir / log, name, f"{arm}/{seed}", task, result, made)
                    if (workdir / log).exists():
                        files["log"] = log.as_posix()
                    written.setdefault(arm, {}).setdefault(name, []).append(files)
    return written


def _write_log(
    path: Path, name: str, model: str, task: Mapping[str, Any], result: Mapping[str, Any], made: float
) -> None:
    """Writes the log of a result that has none yet, and removes those of earlier results of the same eval."""
    if path.exists():
        return
    digest = path.stem.removeprefix(f"{name}-")
    inspect_logs.write(path, name, model, digest, task, result, made)
    for other in path.parent.iterdir():
        if other != path and re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{12}}\.eval", other.name):
            other.unlink()
