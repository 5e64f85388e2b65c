"""Models whose replies are kept, and the run of an eval with them: what was answered is not asked again.

A reply is on disk before anything is made of it, so that a killed eval goes on where it stopped, samples nothing twice
and grades nothing twice, and a changed way of scoring asks no model.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.evals import kinds
from msm_jax.evals.interface import EvalConfig, EvalResult
from msm_jax.evals.judging import JudgeConfig
from msm_jax.foundation import hashing, settings
from msm_jax.sampling.model import Choice, GenerateConfig, Message, Model, ModelOutput, Usage
from msm_jax.synthesis import writers
from msm_jax.synthesis.config import WriterConfig
from msm_jax.synthesis.journal import Journal, Key, Reply


class Recorded:
    """Implements `sampling.model.Model` by another model and a journal of its replies.

    A reply is found by the model's identity, the messages, tools and settings, and how often the same was asked before
    in this run.
    """

    def __init__(self, model: Model, journal: Journal, identity: str) -> None:
        """Wraps a model; `identity` tells it from every other model whose replies the journal holds."""
        self.name = model.name
        self.capabilities = model.capabilities
        self._model, self._journal, self._identity = model, journal, identity
        self._asked: collections.Counter[str] = collections.Counter()

    async def generate(
        self,
        messages: Sequence[Message],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # frozen, so it can be shared
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> ModelOutput:
        """Implements `Model.generate`."""
        request = hashing.digest([settings.to_json(messages), settings.to_json(config), settings.to_json(tools)])
        key = Key("eval", "", request, self._asked[request], self._identity)
        self._asked[request] += 1
        kept = self._journal.find(key)
        if kept is not None:
            return _output(kept)
        output = (
            await self._model.generate(messages, config, tools)
            if tools
            else await self._model.generate(messages, config)
        )
        self._journal.store(key, _reply(output))
        return output

    async def score(self, context: str | Sequence[Message], continuations: Sequence[str]) -> Sequence[float]:
        """Implements `Model.score`; log-probabilities are not kept."""
        return await self._model.score(context, continuations)


def _reply(output: ModelOutput) -> Reply:
    choices = [[dict(choice.message), choice.stop_reason] for choice in output.choices]
    usage = output.usage or Usage(0, 0)
    counted = [usage.input_tokens, usage.output_tokens] if output.usage else None
    text = json.dumps({"choices": choices, "usage": counted}, ensure_ascii=False)
    return Reply(text, output.choices[0].stop_reason, usage.input_tokens, usage.output_tokens)


def _output(reply: Reply) -> ModelOutput:
    stored = json.loads(reply.text)
    usage = stored["usage"] and Usage(*stored["usage"])
    return ModelOutput(tuple(Choice(message, reason) for message, reason in stored["choices"]), usage)


def check(config: EvalConfig, where: str) -> None:
    """Refuses an eval whose judge is not set or cannot be asked, before anything is sampled.

    Raises:
        InputError: as `synthesis.writers.check`, or the kind needs a judge and none is set.
    """
    judge = kinds.judge_of(config, where)
    if judge is not None:
        check_pinned(judge, f"{where}.judge")


def check_pinned(config: JudgeConfig, where: str) -> None:
    """Refuses a pinned model, such as a judge, that cannot be asked.

    Raises:
        InputError: as `synthesis.writers.check`.
    """
    writers.check(_writer(config), where)


@contextlib.asynccontextmanager
async def pinned(config: JudgeConfig, journal: Path, where: str) -> AsyncIterator[Model]:
    """Yields a pinned model, such as a judge, whose replies are kept in a file, which is made where it is missing.

    Raises:
        InputError: as `check_pinned`.
    """
    with contextlib.closing(Journal(journal)) as kept:
        async with writers.opened(_writer(config), config.concurrency, where) as model:
            yield Recorded(model, kept, config.name)


def run(model: Model, config: EvalConfig, journal: Path, identity: str) -> EvalResult:
    """Runs an eval with the model under test and the judge of its settings, whose replies are kept in a file.

    Args:
        model: the model under test.
        config: the eval.
        journal: the file of the replies, made where it is missing.
        identity: what the replies of the model depend on, as a hash.

    Raises:
        InputError: as `kinds.run`.
        WorkError: a model failed for good; the replies so far are kept.
    """
    return asyncio.run(_run(model, config, journal, identity))


async def _run(model: Model, config: EvalConfig, path: Path, identity: str) -> EvalResult:
    judge = kinds.judge_of(config, config.kind)
    with contextlib.closing(Journal(path)) as journal:
        models: dict[str, Model] = {"model": Recorded(model, journal, identity)}
        async with contextlib.AsyncExitStack() as stack:
            if judge is not None:
                opened = pinned(judge, path, f"{config.kind}.judge")
                models["judge"] = await stack.enter_async_context(opened)
            return await kinds.answer(models, config)


def _writer(judge: JudgeConfig) -> WriterConfig:
    return WriterConfig(**{each.name: getattr(judge, each.name) for each in dataclasses.fields(WriterConfig)})
