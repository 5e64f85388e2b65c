"""The phases of a config, as the planner takes them: those of an experiment's graph, or a phase alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.experiments import context
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.nodes import phase as phase_node
from msm_jax.foundation import settings
from msm_jax.planning import phases
from msm_jax.planning.phases import Planned
from msm_jax.training import chat
from msm_jax.training import start as start_lib
from msm_jax.training.config import PhaseConfig
from msm_jax.training.start import Parent, Start


def phases_of(fields: dict[str, Any], model: str = "") -> tuple[str, list[Planned]]:
    """Returns the name of a phase's or an experiment's config, and its phases in the order of the graph.

    A phase that several seeds run is one entry. `model` is the preset of a checkpoint that does not exist yet.
    """
    if "phases" not in fields:
        phase = settings.build(PhaseConfig, fields)
        return phase.name, [Planned(phase, _decided(phase, phases.parent_of(phase, model)))]
    config = settings.build(ExperimentConfig, fields)
    known = context.unread(config, graph_lib.build(config))
    planned: dict[tuple[str, ...], Planned] = {}
    for node in known.graph.nodes:
        if node.kind != "phase":
            continue
        chain = node.spec.chain
        if len(chain) == 1:
            first = phase_node.config_of(node.spec, known, config.checkpoint)
            known.parents[()] = phases.parent_of(first, model or config.model, config.tokenizer.vocab_size)
        phase_node.check(node, known)
        runs = planned[chain].runs if chain in planned else 0
        planned[chain] = Planned(known.phase_configs[node.id], known.starts[node.id], runs + 1, chain)
    return config.name, list(planned.values())


def _decided(config: PhaseConfig, parent: Parent) -> Start:
    """Decides how a phase starts. A template file is read if it exists, since a plan may come before the data."""
    found = Path(config.chat_template).is_file()
    try:
        return start_lib.decide(config, parent, chat.read(config.chat_template) if found else None)
    except InputError as error:
        raise InputError(f"{config.name}: {error}") from error
