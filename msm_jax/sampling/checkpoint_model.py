"""One of our checkpoints as a `Model`: calls that are awaited at the same time decode side by side in its engine."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine, Request
from msm_jax.sampling.model import Capability, Choice, GenerateConfig, Message, ModelOutput, Usage

# Batches of scores run in a thread beside the event loop, so that calls to other models go on meanwhile.
_THREAD = ThreadPoolExecutor(1, "scores")


class CheckpointModel:
    """Implements `sampling.model.Model` by an `Engine`.

    Calls of `score` that are awaited before the event loop next comes round are answered together, in the order in
    which they began, by one pass of `Engine.scores`. A settings field that is None in a `GenerateConfig` has the
    default of `SamplingConfig`.

    Attributes:
        name: what messages to the user call the checkpoint, such as its path.
        capabilities: all three, or only "score_text" where the checkpoint has no chat template.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        """Wraps an engine, which other code may go on using."""
        self.name = name
        chats: tuple[Capability, ...] = () if engine.template is None else ("generate", "score_chat")
        self.capabilities: frozenset[Capability] = frozenset(("score_text", *chats))
        self._engine = engine
        # The batch of scores that still takes requests: the requests, the task that answers them, and the event that
        # the task has finished.
        self._open: tuple[list[Any], asyncio.Task[list[float]], asyncio.Event] | None = None

    async def generate(
        self,
        messages: Sequence[Message],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (frozen)
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> ModelOutput:
        """Implements `Model.generate`; a call to a tool comes as the text that the chat template defines for it."""
        prompt = self._engine.chat_prompt(messages, tools)
        asked: dict[str, Any] = {
            "max_new_tokens": config.max_tokens,
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        seeds = [((config.seed or 0) + i) % 2**31 for i in range(config.num_choices)]
        requests = [Request(prompt, SamplingConfig(stop=config.stop, seed=seed, **given)) for seed in seeds]
        futures = [asyncio.wrap_future(self._engine.submit(request)) for request in requests]
        try:
            replies = await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
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
            requests = split(self._engine, context, continuations)
        else:
            requests = [self._engine.chat_turn(context, reply) for reply in continuations]
        # A task may be done while its batch is open: it was cancelled before it began.
        if self._open is None or self._open[1].done():
            batch, finished = list[Any](), asyncio.Event()
            self._open = batch, asyncio.create_task(self._run(batch, finished)), finished
        batch, answers, finished = self._open
        begin = len(batch)
        batch += requests
        # `asyncio.shield` would do as well, but takes seconds to cancel thousands of calls.
        await finished.wait()
        return (await answers)[begin : begin + len(requests)]

    async def _run(self, batch: list[Any], finished: asyncio.Event) -> list[float]:
        """Answers a batch as soon as the thread is free; calls that begin until then still join it."""
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(_THREAD, lambda: None)
            self._open = None
            prompts, continuations = [prompt for prompt, _ in batch], [continuation for _, continuation in batch]
            pieces = self._engine.scores(prompts, continuations)
            answers: dict[int, float] = {}
            # Piece by piece, so that Ctrl-C waits for one batch of rows and not for all of them.
            while piece := await loop.run_in_executor(_THREAD, next, pieces, None):
                answers |= piece
            return [answers[i] for i in range(len(batch))]
        finally:
            finished.set()


def split(engine: Engine, context: str, continuations: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Returns for each continuation a prompt, which is the same for all of them, and the ids to be scored after it.

    Text and continuation are encoded together, because a tokenizer may join the end of one with the start of the other.
    The prompt ends before the first id that differs from the ids of the text alone in any of the continuations.
    """
    prompt = engine.text_prompt(context)
    encoded = [engine.text_prompt(context + continuation) for continuation in continuations]
    differing = (i for i, ids in enumerate(zip(prompt, *encoded, strict=False)) if len(set(ids)) > 1)
    # Where one continuation is the beginning of another, each still has a token to be scored.
    common = min(next(differing, len(prompt)), *(len(ids) - 1 for ids in encoded))
    return [(prompt[:common], ids[common:]) for ids in encoded]
