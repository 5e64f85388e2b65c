"""The tokenizer of phases from scratch, trained on the experiment's own texts."""

from collections.abc import Mapping
from typing import Any

from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes import directories
from msm_jax.experiments.nodes.interface import Address, Cost, Node, NodeKind, versions
from msm_jax.experiments.worker import Report


def results(node: Node, context: Context) -> dict[str, Address]:
    """Addresses the tokenizer by its size, the bytes of its texts, and its sources.

    Raises:
        InputError: a file to train it on is missing.
    """
    payload = {
        "config": {"vocab_size": node.spec.vocab_size},
        "texts": [context.content(path) for path in context.substitute(node.spec.train_on)],
        "versions": versions("sentencepiece"),
        "sources": context.sources("msm_jax.data.tokenizers"),
    }
    return {"": directories.place(context.store, "tokenizers", "tokenizer", node.id, payload)}


def arguments(node: Node, missing: Mapping[str, Address], context: Context) -> dict[str, Any]:
    """Returns the paths of the texts and the size of the vocabulary."""
    return {"train_on": list(context.substitute(node.spec.train_on)), "vocab_size": node.spec.vocab_size}


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Trains the tokenizer."""
    from msm_jax.data import sources, tokenizers

    texts = [text for path in args["train_on"] for text in sources.iter_texts(path)]
    directories.build(
        results[""], lambda directory: tokenizers.train_sentencepiece(texts, directory, args["vocab_size"])
    )


KIND = NodeKind(
    results=results,
    arguments=arguments,
    run=run,
    is_done=directories.is_done,
    cost=lambda node, missing, context: Cost(10.0),
)
