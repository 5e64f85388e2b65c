"""One of our checkpoints as a `Model`: calls that are awaited at the same time become large batches of its sampler."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Sampler
from msm_jax.sampling.model import Capability, Choice, GenerateConfig, Message, ModelOutput, Usage

# Batches run in a thread beside the event loop, so that calls to other models go on meanwhile. All samplers share one
# thread: two programs that each span several devices would wait for each other if they started in different orders.
_THREAD = ThreadPoolExecutor(1, "sampler")


class CheckpointModel:
    """Implements `sampling.model.Model` by a `Sampler`.

    Calls that are awaited before the event loop next comes round are answered together, in the order in which they
    began: those with equal settings by one pass of `Sampler.replies`, and those that score by one of `Sampler.scores`.
    A settings field that is None in a `GenerateConfig` has the default of `SamplingConfig`.

    Attributes:
        name: what messages to the user call the checkpoint, such as its path.
        capabilities: all three, or only "score_text" where the checkpoint has no chat template.
    """

    def __init__(self, sampler: Sampler, name: str) -> None:
        """Wraps a sampler, which other code may go on using."""
        self.name = name
        chats: tuple[Capability, ...] = () if sampler.template is None else ("generate", "score_chat")
        self.capabilities: frozenset[Capability] = frozenset(("score_text", *chats))
        self._sampler = sampler
        # Batches that still take requests, by settings (None for scores): the requests, the task that answers them, and
        # the event that the task has finished.
        self._open: dict[SamplingConfig | None, tuple[list[Any], asyncio.Task[list[Any]], asyncio.Event]] = {}

    async def generate(
        self,
        messages: Sequence[Message],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (frozen)
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> ModelOutput:
        """Implements `Model.generate`; a call to a tool comes as the text that the chat template defines for it."""
        prompt = self._sampler.chat_prompt(messages, tools)
        asked: dict[str, Any] = {
            "max_new_tokens": config.max_tokens,
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        requests = [(prompt, ((config.seed or 0) + i) % 2**31) for i in range(config.num_choices)]
        replies = await self._answers(SamplingConfig(stop=config.stop, **given), requests)
        choices = [
            Choice(
                {"role": "assistant", "content": reply.text},
                "stop" if reply.finish_reason == "stop" else "max_tokens",
            )
            for reply in replies
        ]
        return ModelOutput(tuple(choices), Usage(len(prompt), sum(len(reply.ids) for reply in replies)))

    async def score(self, context: str | Sequence[Message], continuations: Sequence[str]) -> list[float]:
        """Implements `Model.score`."""
        if isinstance(context, str):
            return await self._answers(None, split(self._sampler, context, continuations))
        return await self._answers(None, [self._sampler.chat_turn(context, reply) for reply in continuations])

    async def _answers(self, sampling: SamplingConfig | None, requests: list[Any]) -> list[Any]:
        """Adds requests to the batch that is open for these settings, and waits for their answers."""
        # A task may be done while its batch is open: it was cancelled before it began.
        if sampling not in self._open or self._open[sampling][1].done():
            batch, finished = list[Any](), asyncio.Event()
            self._open[sampling] = batch, asyncio.create_task(self._run(sampling, batch, finished)), finished
        batch, answers, finished = self._open[sampling]
        begin = len(batch)
        batch += requests
        # `asyncio.shield` would do as well, but takes seconds to cancel thousands of calls.
        await finished.wait()
        return (await answers)[begin : begin + len(requests)]

    async def _run(self, sampling: SamplingConfig | None, batch: list[Any], finished: asyncio.Event) -> list[Any]:
        """Answers a batch as soon as the thread is free; calls that begin until then still join it."""
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(_THREAD, lambda: None)
            del self._open[sampling]
            prompts, others = [prompt for prompt, _ in batch], [other for _, other in batch]
            pieces: Iterator[dict[int, Any]] = (
                self._sampler.scores(prompts, others)
                if sampling is None
                else self._sampler.replies(prompts, sampling, others)
            )
            answers: dict[int, Any] = {}
            # Piece by piece, so that Ctrl-C waits for one decoded batch and not for all of them.
            while piece := await loop.run_in_executor(_THREAD, next, pieces, None):
                answers |= piece
            return [answers[i] for i in range(len(batch))]
        finally:
            finished.set()


def split(sampler: Sampler, context: str, continuations: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Returns for each continuation a prompt, which is the same for all of them, and the ids to be scored after it.

    Text and continuation are encoded together, because a tokenizer may join the end of one with the start of the other.
    The prompt ends before the first id that differs from the ids of the text alone in any of the continuations.
    """
    prompt = sampler.text_prompt(context)
    encoded = [sampler.text_prompt(context + continuation) for continuation in continuations]
    differing = (i for i, ids in enumerate(zip(prompt, *encoded, strict=False)) if len(set(ids)) > 1)
    # Where one continuation is the beginning of another, each still has a token to be scored.
    common = min(next(differing, len(prompt)), *(len(ids) - 1 for ids in encoded))
    return [(prompt[:common], ids[common:]) for ids in encoded]
