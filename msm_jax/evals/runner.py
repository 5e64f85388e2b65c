"""One eval on one model."""

from __future__ import annotations

from msm_jax.evals import items, knowledge, preference
from msm_jax.evals.config import EvalConfig
from msm_jax.evals.results import EvalResult
from msm_jax.sampling.engine import Sampler


def run(sampler: Sampler, config: EvalConfig) -> EvalResult:
    """Reads the items, asks the model and scores it.

    Raises:
        InputError: the item file cannot be used (file, line and field), or an item is longer than the model takes.
        WorkError: the model's weights are not numbers.
    """
    if config.kind == "knowledge":
        return knowledge.by_log_probability(sampler, items.read_knowledge(config.path))
    pairs = items.read_pairs(config.path)
    if config.kind == "preference_greedy":
        return preference.by_answer(sampler, pairs, config.max_new_tokens)
    return preference.by_log_probability(sampler, pairs, graded=config.kind == "preference_probability")
