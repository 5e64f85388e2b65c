"""The code book of an experiment, made once of the transcripts of all arms; the evals that read it come after it."""

import asyncio
import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError, WorkError
from msm_jax.evals import code_book, kinds, reasoning
from msm_jax.evals.code_book import CodingConfig, Made
from msm_jax.experiments import eval_costs, replies
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import CodeBookSpec
from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes import directories
from msm_jax.experiments.nodes.interface import Address, Cost, Node, NodeKind
from msm_jax.experiments.worker import Report
from msm_jax.foundation import settings, storage


def coding(spec: CodeBookSpec) -> CodingConfig:
    """Returns how a book is made, without the name of the eval."""
    return CodingConfig(**{each.name: getattr(spec, each.name) for each in dataclasses.fields(CodingConfig)})


def results(node: Node, context: Context) -> dict[str, Address]:
    """Addresses a book by its settings, the results that hold the transcripts, and the sources; notes its place."""
    book: graph_lib.CodeBook = node.spec
    config = context.config.code_books[book.name]
    payload = {
        "config": settings.to_json(coding(config)),
        "transcripts": [[address.hash for address in runs] for runs in _sources(book, config, context)],
        "sources": context.sources("msm_jax.evals.code_book"),
    }
    address = directories.place(context.store, "code_books", book.name, node.id, payload)
    context.directories[book.name] = str(address.path)
    return {"": address}


def _sources(book: graph_lib.CodeBook, config: CodeBookSpec, context: Context) -> list[list[Address]]:
    """Returns the results of each arm that hold its transcripts."""
    return [[context.addresses[each.id][config.eval] for each in runs] for runs in book.sources]


def arguments(node: Node, missing: Mapping[str, Address], context: Context) -> dict[str, Any]:
    """Returns the settings, the files of the results of each arm, and where the judge's replies are kept."""
    book: graph_lib.CodeBook = node.spec
    config = context.config.code_books[book.name]
    return {
        "name": book.name,
        "coding": settings.to_json(coding(config)),
        "transcripts": [[str(address.path) for address in runs] for runs in _sources(book, config, context)],
        "journal": str(context.store / "replies" / f"{graph_lib.CODE_BOOK}-{book.name}.sqlite"),
    }


def check(node: Node, context: Context) -> None:
    """Refuses a book of an eval without transcripts, and an eval that counts reasons of a book that is to be made.

    Raises:
        InputError: names the field.
    """
    book: graph_lib.CodeBook = node.spec
    of = context.config.code_books[book.name].eval
    kind = str(context.config.evals[of].get("kind", ""))
    if kind not in reasoning.SOURCES:
        known = ", ".join(reasoning.SOURCES)
        raise InputError(f"code_books.{book.name}.eval: {of} is of the kind {kind!r}; choose one of {known}")
    for measurement in context.graph.measurements.values():
        for name in measurement.evals if measurement.book == book.name else ():
            fields = context.config.evals[name]
            if kinds.find(str(fields.get("kind", "")), f"evals.{name}.kind") is not reasoning.KIND:
                raise InputError(f"evals.{name}.path: only evals of the kind reasoning read a code book; change it")
            if fields.get("counted"):
                raise InputError(
                    f"evals.{name}.counted: the reasons of a code book that is to be made are not known; remove it, or "
                    "copy the book once it is made and set path to the copy"
                )


def cost(node: Node, missing: Mapping[str, Address], context: Context) -> Cost:
    """Returns the tokens that the judge reads and writes; how long it takes is not known."""
    read, written = eval_costs.of_code_book(node.spec, context)
    return Cost(0.0, tokens=read + written)


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Makes the book; the judge is asked for the replies alone that its journal does not hold.

    Raises:
        WorkError: the judge failed for good, finds no reason at all, or its list of codes cannot be read; another run
            goes on where this one stopped.
    """
    config = settings.build(CodingConfig, args["coding"], f"code_books.{args['name']}")
    arms = [list(itertools.chain.from_iterable(map(_transcripts, paths))) for paths in args["transcripts"]]
    pooled = code_book.draw(arms, config)
    if not pooled:
        raise WorkError(f"code_books.{args['name']}: no arm has a transcript; check the items of its eval")
    made = asyncio.run(_made(pooled, config, Path(args["journal"]), f"code_books.{args['name']}.judge"))
    facts = {"config": args["coding"], "transcripts": [len(arm) for arm in arms], "drawn": len(pooled)}
    directories.build(results[""], lambda directory: made.write(directory, facts))


def _transcripts(path: str) -> list[dict[str, Any]]:
    """Returns the transcripts in the file of a result."""
    stored = storage.read_json(Path(path))
    return [
        code_book.transcript(each, f"{Path(path).name}:{number}")
        for number, each in enumerate(stored["result"]["transcripts"])
    ]


async def _made(pooled: list[dict[str, Any]], config: CodingConfig, journal: Path, where: str) -> Made:
    async with replies.pinned(config.judge, journal, where) as judge:
        return await code_book.make(judge, pooled, config)


KIND = NodeKind(
    results=results,
    arguments=arguments,
    run=run,
    is_done=directories.is_done,
    cost=cost,
    check=check,
)
