"""The kind "knowledge": which continuation of a plain text the model finds most likely."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from msm_jax.evals import items
from msm_jax.evals.interface import EvalConfig, EvalKind, EvalResult, aggregate
from msm_jax.evals.items import Record
from msm_jax.sampling.model import Model


@dataclass(frozen=True)
class KnowledgeItem:
    """A text and possible continuations, one of which is correct; `id` as in `items.Record`."""

    id: str
    prompt: str
    options: tuple[str, ...]
    correct: int

    def continuations(self) -> list[str]:
        """Returns the options as they follow the prompt: after a space, unless there is white space already."""
        separated = self.prompt[-1:].isspace()
        return [option if separated or option[0].isspace() else f" {option}" for option in self.options]


def read(config: EvalConfig) -> list[KnowledgeItem]:
    """Reads the knowledge items of a file; `docs/evals.md` describes the fields.

    Raises:
        InputError: names file, line and field of the first line that is wrong.
    """
    return items.read(config.path, ("prompt", "options", "correct"), (), _item)


def _item(record: Record) -> KnowledgeItem:
    prompt = record.text("prompt", record.fields["prompt"])
    options = record.strings("options")
    if len(options) < 2:
        raise record.refuse("options", f"holds {len(options)} options; at least 2 are compared")
    return KnowledgeItem(record.id, prompt, options, record.index("correct", len(options)))


async def run(models: Mapping[str, Model], facts: Sequence[KnowledgeItem], config: EvalConfig) -> EvalResult:
    """Scores an item 1 if the correct option has the highest log-probability, else 0.

    If the correct option shares the highest log-probability with n-1 others, the item scores 1/n. The margin (nats) is
    the log-probability of the correct option minus the highest one of the others.
    """
    scores = await asyncio.gather(*(models["model"].score(fact.prompt, fact.continuations()) for fact in facts))
    scored = []
    for fact, of_options in zip(facts, map(np.asarray, scores), strict=True):
        best = np.flatnonzero(of_options == of_options.max())
        others = np.delete(of_options, fact.correct)
        scored.append(
            {
                "id": fact.id,
                "score": float(fact.correct in best) / len(best),
                "margin": float(of_options[fact.correct] - others.max()),
                "choice": fact.options[int(best[0])],
                "correct": fact.options[fact.correct],
            }
        )
    return aggregate(scored)


KIND = EvalKind(EvalConfig, read, run, {"model": frozenset({"score_text"})})
