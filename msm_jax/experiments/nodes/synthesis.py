"""Corpora that writers make from a spec: `corpora.NAME = {"kind": "synthesis", "documents": {...}}`.

The fields of `documents` are those of `synthesis.config.DocumentsConfig`. Replies are kept in STORE/replies, one
journal for each spec: what one experiment has paid for, no other one with this store pays for again, whatever its
plan and its gates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_jax.errors import InputError
from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes import directories
from msm_jax.experiments.nodes.interface import Address, Cost, Node, NodeKind
from msm_jax.experiments.worker import Report
from msm_jax.foundation import settings

if TYPE_CHECKING:
    from msm_jax.synthesis.config import DocumentsConfig

DOCUMENTS = "documents"
REPLIES = "replies"


def config_of(node: Node) -> "DocumentsConfig":
    """Returns the settings of a corpus.

    Raises:
        InputError: they are refused.
    """
    from msm_jax.synthesis.config import DocumentsConfig

    where = f"corpora.{node.id}"
    for name in node.spec:
        if name != DOCUMENTS:
            raise InputError(f"{where}.{name}: unknown field; {settings.nearest(name, [DOCUMENTS])}")
    if DOCUMENTS not in node.spec:
        raise InputError(f"{where}.{DOCUMENTS}: required field is missing; set it")
    return settings.build(DocumentsConfig, node.spec[DOCUMENTS], f"{where}.{DOCUMENTS}")


def results(node: Node, context: Context) -> dict[str, Address]:
    """Addresses a corpus by the settings that decide its texts, the spec, the prompts, and the sources.

    Raises:
        InputError: the spec cannot be used.
    """
    from msm_jax.synthesis import pipeline

    config = config_of(node)
    payload = {
        "documents": pipeline.fingerprint(config, pipeline.read_spec(config)),
        "sources": context.sources("msm_jax.synthesis.pipeline"),
    }
    return {"": directories.place(context.store, "corpora", node.id, node.id, payload)}


def arguments(node: Node, missing: Mapping[str, Address], context: Context) -> dict[str, Any]:
    """Returns the settings, and where the replies are kept."""
    from msm_jax.synthesis import pipeline

    config = config_of(node)
    spec = pipeline.read_spec(config)
    name = f"{Path(config.spec.path).stem}-{spec.sha256[:12]}.sqlite"
    return {
        "where": f"corpora.{node.id}.{DOCUMENTS}",
        "documents": settings.to_json(config),
        "journal": str(context.store / REPLIES / name),
    }


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Generates the corpus; only replies that are not in the journal are asked for.

    Raises:
        InputError: a writer cannot be asked; the message names what is missing.
        WorkError: a cap is reached, or a writer fails for good; another run continues.
    """
    from msm_jax.synthesis import pipeline
    from msm_jax.synthesis.config import DocumentsConfig
    from msm_jax.synthesis.progress import Progress

    config = settings.build(DocumentsConfig, args["documents"], args["where"])

    def progressed(progress: Progress) -> None:
        spent = {} if progress.dollars is None else {"note": f"${progress.dollars:,.2f}"}
        report({"step": progress.done, "steps": progress.planned, "eta_seconds": progress.seconds_left, **spent})

    directories.build(
        results[""], lambda directory: pipeline.run(config, directory, Path(args["journal"]), progressed, 2.0)
    )


def cost(node: Node, missing: Mapping[str, Address], context: Context) -> Cost:
    """Returns what a run from nothing takes; replies that are in the journal make it cheaper."""
    from msm_jax.synthesis import pipeline, preview

    config = config_of(node)
    found = preview.of(config, pipeline.read_spec(config))
    count = sum(stage.input_tokens + stage.output_tokens for stage in found.stages)
    return Cost(found.seconds, tokens=count, dollars=found.dollars or 0.0)


def check_files(node: Node, context: Context) -> None:
    """Reads the spec."""
    from msm_jax.synthesis import pipeline

    pipeline.read_spec(config_of(node))


KIND = NodeKind(
    results=results,
    arguments=arguments,
    run=run,
    is_done=directories.is_done,
    cost=cost,
    check=lambda node, context: config_of(node),
    check_files=check_files,
)
