"""The built-in small world: its corpora, specs and evals."""

from collections.abc import Mapping
from typing import Any

from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes import directories
from msm_jax.experiments.nodes.interface import Address, Cost, Node, NodeKind
from msm_jax.experiments.worker import Report
from msm_jax.foundation import settings


def complete(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the complete settings of a world as JSON.

    Raises:
        InputError: they are refused.
    """
    from msm_jax.miniworld.config import WorldConfig

    return settings.to_json(settings.build(WorldConfig, fields, where))


def results(node: Node, context: Context) -> dict[str, Address]:
    """Addresses the world by its settings, its spec templates and its sources."""
    from msm_jax.miniworld import generate

    payload = {
        "config": complete(node.spec, node.id),
        "specs": context.tree(str(generate.SPEC_DIR)),
        "sources": context.sources("msm_jax.miniworld.generate"),
    }
    return {"": directories.place(context.store, "worlds", node.kind, node.id, payload)}


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Generates the world."""
    from msm_jax.miniworld import generate
    from msm_jax.miniworld.config import WorldConfig

    config = settings.build(WorldConfig, args, "world")
    directories.build(results[""], lambda directory: generate.write(config, directory))


KIND = NodeKind(
    results=results,
    arguments=lambda node, missing, context: complete(node.spec, node.id),
    run=run,
    is_done=directories.is_done,
    cost=lambda node, missing, context: Cost(20.0),
    check=lambda node, context: complete(node.spec, node.id),
)
