"""A kind of eval in one file: a judge says whether the reply of the model under test keeps to a rule."""

import asyncio
from dataclasses import dataclass

from msm_jax.evals import items
from msm_jax.evals.interface import EvalConfig, EvalKind, aggregate
from msm_jax.sampling.model import GenerateConfig


@dataclass(frozen=True)
class JudgedConfig(EvalConfig):
    rule: str
    max_tokens: int = 16


def read(config):
    return items.read(config.path, ("question",), (), lambda record: (record.id, record.fields["question"]))


async def run(models, questions, config):
    async def judged(number, question):
        config_of_reply = GenerateConfig(max_tokens=config.max_tokens, seed=number)
        reply = (await models["model"].generate([{"role": "user", "content": question}], config_of_reply)).completion
        verdict = await models["judge"].generate([{"role": "user", "content": f"{config.rule}: {reply}"}])
        return reply, float(verdict.completion == "yes")

    answers = await asyncio.gather(*(judged(number, question) for number, (_, question) in enumerate(questions)))
    scored = zip(questions, answers, strict=True)
    return aggregate([{"id": number, "score": score, "reply": reply} for (number, _), (reply, score) in scored])


KIND = EvalKind(JudgedConfig, read, run, {"model": frozenset({"generate"}), "judge": frozenset({"generate"})})
