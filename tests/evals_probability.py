"""A kind of eval in one file: how probable the model finds a text, per character."""

import math
from dataclasses import dataclass

from msm_jax.evals import items
from msm_jax.evals.interface import EvalConfig, EvalKind, aggregate


@dataclass(frozen=True)
class ProbabilityConfig(EvalConfig):
    opening: str = "The lamp"


def read(config):
    return items.read(config.path, ("text",), (), lambda record: (record.id, record.fields["text"]))


async def run(models, texts, config):
    scored = []
    for name, text in texts:
        (nats,) = await models["model"].score(config.opening, [text])
        scored.append({"id": name, "score": math.exp(nats / len(text))})
    return aggregate(scored)


KIND = EvalKind(ProbabilityConfig, read, run, {"model": frozenset({"score_text"})})
