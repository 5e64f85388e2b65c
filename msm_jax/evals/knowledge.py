"""Knowledge items: which continuation of a plain text does the model find most likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from msm_jax.evals.items import KnowledgeItem
from msm_jax.evals.results import EvalResult, gathered
from msm_jax.sampling.engine import Sampler


def by_log_probability(sampler: Sampler, items: Sequence[KnowledgeItem]) -> EvalResult:
    """Scores an item 1 where the correct option has the highest summed log-probability, else 0.

    A tie for the highest that the correct option shares counts as its share. The margin (nats) is the correct
    option less the best of the others.
    """
    prompts: list[list[int]] = []
    continuations: list[list[int]] = []
    for item in items:
        prompt, options = split(sampler, item)
        prompts += [prompt] * len(options)
        continuations += options
    sums = sampler.score(prompts, continuations)
    scored = []
    begin = 0
    for item in items:
        of_options = sums[begin : begin + len(item.options)]
        begin += len(item.options)
        best = np.flatnonzero(of_options == of_options.max())
        others = np.delete(of_options, item.correct)
        scored.append(
            {
                "id": item.id,
                "score": float(item.correct in best) / len(best),
                "margin": float(of_options[item.correct] - others.max()),
                "choice": item.options[int(best[0])],
                "correct": item.options[item.correct],
            }
        )
    return gathered(scored)


def split(sampler: Sampler, item: KnowledgeItem) -> tuple[list[int], list[list[int]]]:
    """The ids that an item's options have in common with its prompt, and those that follow in each option.

    A tokenizer may join the end of the prompt with the start of an option, so prompt and option are encoded
    together, and what is scored begins with the first token that differs from the prompt's own in any of the
    options: all of them are compared on the same text from the same place on.
    """
    prompt = sampler.text_prompt(item.prompt)
    encoded = [sampler.text_prompt(text) for text in item.texts()]
    common = min(_common_prefix(prompt, ids) for ids in encoded)
    # Where one option is the beginning of another, each still has a token to be scored.
    common = min(common, *(len(ids) - 1 for ids in encoded))
    return prompt[:common], [ids[common:] for ids in encoded]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count
