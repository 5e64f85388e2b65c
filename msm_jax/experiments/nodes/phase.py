"""The node of a training run, whose result is the run directory of one phase."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_jax.errors import InputError
from msm_jax.experiments import estimate
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes import directories
from msm_jax.experiments.nodes.interface import DONE, NODE, Address, Cost, Node, NodeKind, versions
from msm_jax.experiments.worker import Report
from msm_jax.foundation import hashing, settings, storage
from msm_jax.training.config import PhaseConfig

if TYPE_CHECKING:
    from msm_jax.training.start import Parent


def config_of(phase: graph_lib.Phase, context: Context, start: str) -> PhaseConfig:
    """Returns the resolved settings of a training run.

    `threads` 0 becomes 1, since a result is addressed by its thread count.

    Args:
        phase: the run.
        context: what is known.
        start: the checkpoint that it starts from, "" for a phase from scratch.

    Raises:
        InputError: the settings are refused.
    """
    name = phase.chain[-1]
    where = f"phases.{name}"
    fields = dict(context.substitute(settings.plain(context.config.phases[name])))
    if not isinstance(fields.get("data"), Mapping):
        raise InputError(f"{where}.data: required field is missing; set it")
    fields["data"] = {"cache_dir": str(context.store / "cache"), **fields["data"]}
    fields["threads"] = fields.get("threads") or 1
    fields |= {
        "name": name,
        "seed": graph_lib.phase_seed(context.config, name, phase.seed),
        "init": {"mode": "params", "checkpoint": start} if start else {"mode": "scratch"},
        "tokenizer": "" if start else context.tokenizer_dir,
        "keep_steps": phase.keep_steps,
    }
    return settings.build(PhaseConfig, fields, where)


def results(node: Node, context: Context) -> dict[str, Address]:
    """Addresses the run by its settings, the bytes of its data, its parent, and the code that trains.

    Raises:
        InputError: a data file is missing, or the settings are refused.
    """
    phase: graph_lib.Phase = node.spec
    start = context.checkpoint_of(phase.parent, phase.seed)
    config = context.phase_configs[node.id] = config_of(phase, context, start)
    payload = {
        "config": _without_paths(config),
        "data": {name: context.content(source.path) for name, source in sorted(config.data.sources.items())},
        "chat_template": _file_sha256(config.chat_template) if config.chat_template else "",
        "parent": context.checkpoint_hash(phase.parent, phase.seed),
        "tokenizer": "" if start else hashing.digest(context.tree(context.tokenizer_dir)),
        "devices": config.mesh.size,
        "threads": config.threads,
        "versions": versions("jax", "jaxlib"),
        "sources": context.sources("msm_jax.training.loop"),
    }
    address = directories.place(context.store, "phases", phase.name, node.id, payload)
    return {"": dataclasses.replace(address, steps=config.keep_steps)}


def _without_paths(config: PhaseConfig) -> dict[str, Any]:
    """Returns the settings as JSON, without paths, whose contents the payload holds, and what decides no result.

    The latter are kept steps, meant epochs, and what is watched.
    """
    fields = settings.to_json(config)
    for source in fields["data"]["sources"].values():
        del source["path"]
    del fields["data"]["cache_dir"], fields["data"]["epochs"], fields["init"]["checkpoint"], fields["init"]["base"]
    del fields["tokenizer"], fields["chat_template"], fields["keep_steps"]
    del fields["stall_seconds"], fields["trace_steps"]
    return fields


def _file_sha256(path: str) -> str:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; check the path")
    return hashing.file_sha256(path)


def is_done(address: Address) -> bool:
    """Returns whether a run is finished and has its last checkpoint and those of the steps that arms branch from."""
    done = storage.find_json(address.path / DONE)
    if done is None or done["hash"] != address.hash:
        return False
    last = address.path / done["result"]["checkpoint"]
    return last.is_dir() and all((last.parent / str(step)).is_dir() for step in address.steps)


def cost(node: Node, missing: Mapping[str, Address], context: Context) -> Cost:
    """Estimates the run by the speed of earlier runs, else by a bound on the accelerators, else by its FLOPs."""
    config = context.phase_configs[node.id]
    largest = estimate.largest_model(context.config, context.phase_configs.values())
    seconds, is_measured = context.rates.phase_seconds(config, largest)
    least = None if is_measured else estimate.least_seconds(config, context.config)
    return Cost(
        seconds if least is None else least, is_measured, config.steps, estimate.tokens(config),
        devices=config.mesh.size, threads=config.threads, is_bound=least is not None,
    )


def arguments(node: Node, missing: Mapping[str, Address], context: Context) -> dict[str, Any]:
    """Returns the settings of the run."""
    return {"config": settings.to_json(context.phase_configs[node.id])}


def check(node: Node, context: Context) -> None:
    """Decides how the run starts from what its parent will write; see `training.start`.

    Raises:
        InputError: the settings are refused, or do not fit those of the phases before.
    """
    from msm_jax.training import chat, start

    phase: graph_lib.Phase = node.spec
    config = config_of(phase, context, "parent" if phase.parent else context.config.checkpoint)
    context.phase_configs[node.id] = config
    parent = context.parents.get(phase.parent) or _origin(config, context)
    exists = Path(config.chat_template).is_file()
    try:
        found = start.decide(config, parent, chat.read(config.chat_template) if exists else None)
    except InputError as error:
        raise InputError(f"phases.{config.name}.{error}") from error
    context.starts[node.id] = found
    context.parents[phase.chain] = found.checkpoint(f"the checkpoint of {config.name}", config.steps)
    for step in phase.keep_steps:
        context.parents[phase.branch(step)] = found.checkpoint(f"the checkpoint of {config.name} at step {step}", step)


def _origin(config: PhaseConfig, context: Context) -> "Parent":
    """Returns what the first phase of a chain starts from, as far as it exists."""
    from msm_jax.training import origin, start

    checkpoint = context.config.checkpoint
    if checkpoint:
        return origin.read_checkpoint(checkpoint) if Path(checkpoint).exists() else start.Parent(checkpoint)
    if context.graph.has_tokenizer:
        return start.of_new_tokenizer(context.config.tokenizer.vocab_size)
    directory = context.tokenizer_dir
    exists = Path(directory).is_dir()
    return origin.read_tokenizer(directory, config.chat_template) if exists else start.Parent(directory)


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Trains the phase, from its own newest checkpoint if it has one."""
    import jax

    from msm_jax.training import loop

    address, is_first = results[""], jax.process_index() == 0
    address.path.mkdir(parents=True, exist_ok=True)
    if is_first:
        storage.write_json(address.path / NODE, address.description())
    start = time.monotonic()
    before = storage.find_json(address.path / DONE) or {"seconds": 0.0}
    result = dataclasses.asdict(
        loop.train(settings.build(PhaseConfig, args["config"], "phase"), address.path, report)
    )
    result["checkpoint"] = str(Path(result["checkpoint"]).relative_to(address.path))
    seconds = before["seconds"] + time.monotonic() - start
    if is_first:
        storage.write_json(address.path / DONE, {"hash": address.hash, "result": result, "seconds": seconds})


KIND = NodeKind(
    results=results, arguments=arguments, run=run, is_done=is_done, cost=cost, check=check, spans_hosts=True
)
