"""Corpora that writers make from a spec: `corpora.NAME = {"kind": "synthesis", "documents": {...}}`.

The fields, and "demonstrations" and "pairs" beside "documents", are those of `synthesis.generation`. Replies are kept
in STORE/replies, one journal for each spec: what one experiment has paid for, no other one with this store pays for
again, whatever its plan and its gates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_jax.errors import InputError, WorkError
from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes import directories
from msm_jax.experiments.nodes.interface import Address, Cost, Node, NodeKind
from msm_jax.experiments.worker import Report
from msm_jax.foundation import settings, storage

if TYPE_CHECKING:
    from msm_jax.specs.prose import Prose
    from msm_jax.synthesis.generation import Kind

REPLIES = "replies"
STOPPED = "stopped"


def built(node: Node) -> "tuple[Kind, Any]":
    """Returns the kind of a corpus, and its settings.

    Raises:
        InputError: they are refused.
    """
    from msm_jax.synthesis import generation

    where, names = f"corpora.{node.id}", list(node.spec)
    for name in names:
        if name not in generation.KINDS:
            raise InputError(f"{where}.{name}: unknown field; {settings.nearest(name, generation.KINDS)}")
    if len(names) != 1:
        raise InputError(f"{where}: needs exactly one of {' and '.join(generation.KINDS)}; set it")
    kind = generation.KINDS[names[0]]
    return kind, settings.build(kind.settings, node.spec[names[0]], f"{where}.{names[0]}")


def spec_of(config: Any) -> "Prose":
    """Returns the spec that settings name.

    Raises:
        InputError: it cannot be used.
    """
    from msm_jax.synthesis import pipeline

    return pipeline.read_spec(config.spec)


def results(node: Node, context: Context) -> dict[str, Address]:
    """Addresses a corpus by the settings that decide its texts, the spec, the prompts, and the sources.

    Raises:
        InputError: the spec cannot be used.
    """
    from msm_jax.synthesis import gating

    kind, config = built(node)
    payload = {
        "corpus": kind.fingerprint(config, spec_of(config)),
        "evals": gating.eval_hashes(config.gates, evals_of(context)) if config.gates else {},
        "sources": context.sources("msm_jax.synthesis.generation"),
    }
    return {"": directories.place(context.store, "corpora", node.id, node.id, payload)}


def evals_of(context: Context) -> list[str]:
    """Returns the item files of the experiment's evals, which no text may overlap with; none that is generated."""
    paths = [path for each in context.graph.measurements.values() for path in each.evals.values()]
    return [path for path in dict.fromkeys(paths) if not context.awaits(path)]


def arguments(node: Node, missing: Mapping[str, Address], context: Context) -> dict[str, Any]:
    """Returns the settings, and where the replies are kept."""
    _, config = built(node)
    journal = f"{Path(config.spec.path).stem}-{spec_of(config).sha256[:12]}.sqlite"
    spec = {name: settings.to_json(settings.plain(fields)) for name, fields in node.spec.items()}
    return {
        "id": node.id,
        "spec": spec,
        "journal": str(context.store / REPLIES / journal),
        "evals": evals_of(context),
        "stopped": str(context.store / STOPPED / node.id),
    }


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Generates the corpus; only replies that are not in the journal are asked for.

    Raises:
        InputError: a writer cannot be asked; the message names what is missing.
        WorkError: a cap is reached, a writer fails for good, no reply can be used, or the gates stop the corpus; its
            page and what was dropped then lie in STORE/stopped/NAME, and another run continues.
    """
    from msm_jax.synthesis.progress import Progress

    kind, config = built(Node(args["id"], "synthesis", args["spec"]))

    def progressed(progress: Progress) -> None:
        spent = {} if progress.dollars is None else {"note": f"${progress.dollars:,.2f}"}
        report({"step": progress.done, "steps": progress.planned, "eta_seconds": progress.seconds_left, **spent})

    def write(directory: Path) -> None:
        try:
            kind.run(config, directory, Path(args["journal"]), progressed, 2.0, args["evals"])
        except WorkError as error:
            pages = Path(args["stopped"])
            for page in (*directory.rglob("quality.*"), *directory.glob("dropped.jsonl")):
                storage.write_bytes(pages / page.relative_to(directory), page.read_bytes())
            raise WorkError(str(error).replace(str(directory), str(pages))) from error

    directories.build(results[""], write)


def cost(node: Node, missing: Mapping[str, Address], context: Context) -> Cost:
    """Returns what a run from nothing takes; replies that are in the journal make it cheaper."""
    kind, config = built(node)
    found = kind.estimate(config, spec_of(config))
    count = sum(stage.input_tokens + stage.output_tokens for stage in found.stages)
    return Cost(found.seconds, tokens=count, dollars=found.dollars or 0.0)


KIND = NodeKind(
    results=results,
    arguments=arguments,
    run=run,
    is_done=directories.is_done,
    cost=cost,
    check=lambda node, context: built(node),
    check_files=lambda node, context: spec_of(built(node)[1]),
)
