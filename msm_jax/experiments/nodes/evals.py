"""The evals of one checkpoint. Each is a result of its own, so that those that are finished survive an interruption."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.evals import kinds
from msm_jax.evals.interface import EvalConfig, EvalResult
from msm_jax.experiments import eval_costs, replies
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes.interface import Address, Cost, Node, NodeKind, versions
from msm_jax.experiments.worker import Report
from msm_jax.foundation import hashing, settings, storage

TIMES = "times.json"
REPLIES = "replies.sqlite"


def sources_of(kind: str) -> dict[str, str]:
    """Returns the hashes of the source files that decide the results of evals of a kind."""
    return {**kinds.source_hashes(kind), **hashing.sources_of("msm_jax.sampling.checkpoint_model")}


def sampler() -> dict[str, Any]:
    """Returns what the replies of a checkpoint depend on beside its weights: the code that draws, and its versions."""
    return {"sources": hashing.sources_of("msm_jax.sampling.checkpoint_model"), "versions": versions("jax", "jaxlib")}


def payload_of(
    config: EvalConfig, items_sha256: str, checkpoint: str, scoring: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, Any]:
    """Returns everything that the result of an eval depends on.

    Args:
        config: the eval; its path is no part of the payload, since the hash of its items is.
        items_sha256: the hash of the files in `kinds.files`.
        checkpoint: a hash of the checkpoint.
        scoring: how the model is run.
        sources: as `sources_of` returns them.
    """
    fields = settings.to_json(config)
    del fields["path"]
    return {
        "config": fields,
        "items": items_sha256,
        "checkpoint": checkpoint,
        "scoring": scoring,
        "versions": versions("jax", "jaxlib", *kinds.packages(config)),
        "sources": sources,
    }


def is_done(address: Address) -> bool:
    """Returns whether a file holds the result of this address."""
    stored = storage.find_json(address.path)
    return isinstance(stored, dict) and stored.get("hash") == address.hash


def write(address: Address, result: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the file of a result and returns what it holds."""
    stored = {**address.description(), **result}
    storage.write_json(address.path, stored)
    return stored


def samples(result: Mapping[str, Any]) -> str:
    """Returns the lines of a file of samples: every transcript, or every item if nothing was generated."""
    return storage.json_lines(result["transcripts"] or result["items"])


def config_of(name: str, path: str, context: Context) -> EvalConfig:
    """Returns the settings of an eval with the path of its items.

    Raises:
        InputError: they are refused.
    """
    fields = settings.to_json(context.config.evals[name])
    kept = {key: context.substitute(value) for key, value in fields.items() if key != "after"}
    return kinds.build({**kept, "path": path}, f"evals.{name}")


def _configs(node: Node, context: Context) -> dict[str, EvalConfig]:
    return {name: config_of(name, context.substitute(path), context) for name, path in node.spec.evals.items()}


def results(node: Node, context: Context) -> dict[str, Address]:
    """Addresses each eval by its settings, its items, the checkpoint, and the code that scores.

    Raises:
        InputError: an item file is missing.
    """
    measurement: graph_lib.Measurement = node.spec
    checkpoint = context.checkpoint_hash(measurement.chain, measurement.seed)
    directory = context.store / "evals" / f"{measurement.name}-{checkpoint[:12]}"
    scoring = settings.to_json(context.config.scoring)
    found = {}
    for name, config in _configs(node, context).items():
        sources = context.once("eval sources", config.kind, sources_of)
        content = _content(config, measurement.book, context)
        payload = payload_of(config, content, checkpoint, scoring, sources)
        path = directory / f"{name}-{hashing.digest(payload)[:12]}.json"
        found[name] = Address(f"{node.id}/{name}", payload, path)
    return found


def _content(config: EvalConfig, book: str, context: Context) -> str:
    """Returns the hash of the files that an eval reads; that of a code book to be made is the hash of its address."""
    files = kinds.files(config)
    if not book:
        return context.content(",".join(files))
    made = context.addresses[f"{graph_lib.CODE_BOOK}/{book}"][""].hash
    return hashing.digest([made, context.content(",".join(files[1:]))])


def cost(node: Node, missing: Mapping[str, Address], context: Context) -> Cost:
    """Estimates the evals by earlier ones of the same name, else by a bound on what the model writes in them."""
    names = missing or node.spec.evals
    seconds, is_measured = context.rates.eval_seconds(names)
    scoring, has_bound = context.config.scoring, bool(context.config.accelerator and context.config.model)
    if has_bound and not is_measured:
        found = (context.once("eval seconds", name, lambda name: _least(name, node, context)) for name in names)
        seconds = sum(found)
    return Cost(
        seconds, is_measured, devices=scoring.mesh.size, threads=scoring.threads,
        is_bound=has_bound and not is_measured,
    )


def _least(name: str, node: Node, context: Context) -> float:
    """Returns the least seconds of the replies of an eval; 0 where it lets the model write nothing."""
    path = node.spec.evals[name]
    if context.awaits(path) or not kinds.find(context.config.evals[name]["kind"], "kind").items:
        return 0.0
    asked = eval_costs.written(config_of(name, path, context))
    return eval_costs.seconds(asked, context.config) if asked else 0.0


def arguments(node: Node, missing: Mapping[str, Address], context: Context) -> dict[str, Any]:
    """Names the checkpoint, and the settings of the evals that are missing."""
    scoring = context.config.scoring
    return {
        "checkpoint": context.checkpoint_of(node.spec.chain, node.spec.seed),
        "batch": scoring.batch,
        "mesh": settings.to_json(scoring.mesh),
        "evals": {name: settings.to_json(each) for name, each in _configs(node, context).items() if name in missing},
    }


def check(node: Node, context: Context) -> None:
    """Builds the settings of the evals, and refuses those that lack their judge."""
    for name, config in _configs(node, context).items():
        kinds.judge_of(config, f"evals.{name}")


def check_files(node: Node, context: Context) -> None:
    """Reads the items of the evals whose files exist, each file once for each eval."""
    for name, config in _configs(node, context).items():
        is_there = not context.awaits(config.path) and (not node.spec.book or Path(config.path).exists())
        if is_there and (name, config.path) not in context.checked:
            kinds.check(config)
            context.checked.add((name, config.path))


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Measures the checkpoint by each missing eval.

    `times.json` beside the results keeps the seconds of each eval, for estimates.

    Raises:
        InputError: the model cannot do what one of the evals needs.
    """
    from msm_jax.parallel.mesh import MeshConfig
    from msm_jax.sampling.checkpoint_model import CheckpointModel
    from msm_jax.sampling.engine import Engine

    mesh = settings.build(MeshConfig, args["mesh"], "scoring.mesh")
    engine = Engine.from_checkpoint(Path(args["checkpoint"]), mesh, args["batch"])
    model = CheckpointModel(engine, args["checkpoint"])
    configs = {name: kinds.build(args["evals"][name], f"evals.{name}") for name in results}
    for config in configs.values():
        kinds.check_model(model, config)
    for index, (name, address) in enumerate(results.items()):
        report({"step": index, "steps": len(results)})
        start = time.monotonic()
        identity = hashing.digest([address.payload["checkpoint"], address.payload["scoring"], sampler()])
        found: EvalResult = replies.run(model, configs[name], address.path.with_name(REPLIES), identity)
        write(address, {"result": found.to_json()})
        times = address.path.with_name(TIMES)
        storage.write_json(times, {**(storage.find_json(times) or {}), name: time.monotonic() - start})


KIND = NodeKind(
    results=results,
    arguments=arguments,
    run=run,
    is_done=is_done,
    cost=cost,
    check=check,
    check_files=check_files,
)
