"""A loaded engine as named models: its base and its adapters, each with its dialect."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine, Generation, Request
from msm_jax.serving import dialects
from msm_jax.serving.dialects import Dialect


class Host:
    """An engine with the dialects of its base and adapters.

    Attributes:
        engine: what answers.
        dialects: the dialect of each adapter by its name; that of the base is under "".
    """

    def __init__(self, checkpoint: Path, adapters: Mapping[str, str], **engine: Any) -> None:
        """Loads a checkpoint and adapters on it, {name: path}; what is wrong with their texts is found before.

        Args:
            checkpoint: the checkpoint of the base.
            adapters: paths by name.
            engine: further settings of `Engine.from_checkpoint`: mesh, slots, cache_mib.

        Raises:
            InputError: the checkpoint or an adapter is none, is damaged, or they do not fit each other, or a setting of
                the engine does not fit them.
        """
        self._checkpoint = checkpoint
        self.dialects: dict[str, Dialect] = {}
        for name, path in {"": "", **adapters}.items():
            self.dialects[name] = self._dialect(path)
        self.engine = Engine.from_checkpoint(checkpoint, adapters=adapters, **engine)

    def add_adapter(self, name: str, path: str) -> None:
        """Loads a further adapter beside the base.

        Raises:
            InputError: as when it is made.
        """
        dialect = self._dialect(path)
        self.engine.add_adapter(name, path)
        self.dialects[name] = dialect

    def room(self, prompt: Sequence[int]) -> int:
        """Returns how many tokens a reply to a prompt may have; not positive where the prompt is too long."""
        return self.engine.most_tokens - len(prompt)

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
        except BaseException:  # raised again; whatever it is, none of them stays with the engine
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

    def _dialect(self, path: str) -> Dialect:
        """Reads the dialect of an adapter, "" for the base; refuses a tokenizer that is not the base's."""
        found = dialects.of_checkpoint(self._checkpoint, path)
        if path and found.tokenizer.sha256 != self.dialects[""].tokenizer.sha256:
            raise InputError(f"{path}: its tokenizer is not that of {self._checkpoint}; serve it on its own")
        return found


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


def _on_loop(
    loop: asyncio.AbstractEventLoop, index: int, on_piece: Callable[[int, str], None]
) -> Callable[[str], None]:
    """Returns a function for the engine's thread that calls `on_piece` on the event loop."""

    def call(text: str) -> None:
        # A loop that has been closed has no reader, and an error here would be one of the engine's.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(on_piece, index, text)

    return call
