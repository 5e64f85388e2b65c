"""A loaded engine as named models that chat: prompts in, parts of replies out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from msm_jax.errors import InputError
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Generation
from msm_jax.serving import formats
from msm_jax.serving.formats import ReplyFormat
from msm_jax.serving.interim import Engine, Request


class Host:
    """An engine whose base and adapters have names.

    Attributes:
        engine: what answers.
        models: the names under which it answers; the adapter of each, "" for the base.
    """

    def __init__(self, engine: Engine, models: Mapping[str, str]) -> None:
        """Reads from the chat templates how replies are written."""
        self.engine = engine
        self.models = dict(models)
        self._formats = {adapter: _format(engine) for adapter in self.models.values()}

    def format(self, adapter: str) -> ReplyFormat:
        """Returns how the template of an adapter writes replies."""
        return self._formats[adapter]

    async def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], adapter: str
    ) -> list[int]:
        """Returns the ids of a chat, which a template of its own process renders while other requests go on.

        Raises:
            InputError: there is no chat template, or it refuses the messages, does not write tools, or writes calls in
                a form that is not read.
        """
        form = self.format(adapter)
        if tools and self.engine.template is not None:
            if not form.writes_tools:
                raise InputError("the chat template does not write tools; ask without tools")
            if form.calls is None:
                raise InputError("the chat template does not write tool calls as JSON objects; ask without tools")
        return await asyncio.to_thread(self.engine.chat_prompt, messages, tools)

    def room(self, prompt: Sequence[int]) -> int:
        """Returns how many tokens a reply to a prompt may have; not positive where the prompt is too long."""
        return int(self.engine.config.max_position_embeddings) - len(prompt)

    def submit(
        self, requests: Sequence[Request], on_piece: Callable[[int, str], None] | None = None
    ) -> list[asyncio.Future[Generation]]:
        """Gives requests to the engine; `on_piece(index, text)` is called on the event loop as text is drawn.

        Cancelling a future frees the slot of its request.

        Raises:
            InputError: a request cannot fit; then none is left with the engine.
        """
        loop = asyncio.get_running_loop()
        given: list[Future[Generation]] = []
        try:
            for index, request in enumerate(requests):
                given.append(self.engine.submit(request, on_piece and _on_loop(loop, index, on_piece)))
        except BaseException:
            for future in given:
                future.cancel()
            raise
        return [asyncio.wrap_future(future) for future in given]

    async def answers(self, requests: Sequence[Request]) -> list[Generation]:
        """Returns the replies in order; when it is cancelled, or one fails, the slots of all are freed."""
        futures = self.submit(requests)
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()


def requests_of(
    prompt: Sequence[int],
    choices: int,
    max_tokens: int,
    drawing: Mapping[str, Any],
    seed: int | None,
    adapter: str,
    logprobs: int | None,
) -> list[Request]:
    """Returns a request for each choice; choice i has the seed `seed` + i, or a random one where it is None."""
    first = secrets.randbelow(2**31) if seed is None else seed
    return [
        Request(
            tuple(prompt),
            SamplingConfig(max_new_tokens=max_tokens, seed=(first + i) % 2**31, **drawing),
            adapter,
            logprobs,
        )
        for i in range(choices)
    ]


def _format(engine: Engine) -> ReplyFormat:
    template = engine.template
    return ReplyFormat() if template is None else formats.of_template(template, engine.tokenizer)


def _on_loop(
    loop: asyncio.AbstractEventLoop, index: int, on_piece: Callable[[int, str], None]
) -> Callable[[str], None]:
    """Returns a function for the engine's thread that calls `on_piece` on the event loop."""

    def call(text: str) -> None:
        loop.call_soon_threadsafe(on_piece, index, text)

    return call
