"""The check of a phase's data before the first phase starts: reads, tokenises and caches it. It has no result."""

from collections.abc import Mapping
from typing import Any

from msm_jax.experiments.context import Context
from msm_jax.experiments.nodes.interface import Address, Cost, Node, NodeKind
from msm_jax.experiments.worker import Report
from msm_jax.foundation import settings


def arguments(node: Node, missing: Mapping[str, Address], context: Context) -> dict[str, Any]:
    """Returns the settings of the phases up to the one whose data is checked."""
    chain = [context.phase_configs[run] for run in context.graph.runs_of(node.spec)]
    return {"chain": [settings.to_json(config) for config in chain]}


def run(args: Mapping[str, Any], results: Mapping[str, Address], report: Report) -> None:
    """Reads the data with the tokenizer and the template that the phase will find in its parent checkpoint.

    Raises:
        InputError: a file cannot be used: bad JSON, a chat longer than a row, and so on.
    """
    from msm_jax.data.loader import Loader
    from msm_jax.training import origin, start
    from msm_jax.training.config import PhaseConfig

    chain = [settings.build(PhaseConfig, config, f"phases.{config['name']}") for config in args["chain"]]
    found = start.chain(chain, origin.read(chain[0]))
    assert found.tokenizer is not None and found.chat is not None
    last = chain[-1]
    Loader(last.data, found.tokenizer, found.chat.template, last.batch_rows, last.seed, last.data.cache_dir)


KIND = NodeKind(
    results=lambda node, context: {},
    arguments=arguments,
    run=run,
    is_done=lambda address: False,
    cost=lambda node, missing, context: Cost(5.0),
)
