"""The engine's interface over a `Sampler`, until the engine is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Generation, Sampler


@dataclass(frozen=True)
class Request:
    """A prompt and how to draw its reply."""

    prompt: tuple[int, ...]
    sampling: SamplingConfig
    adapter: str = ""
    logprobs: int | None = None


class Engine:
    """Answers one request after the other."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.config, self.tokenizer, self.template = sampler.config, sampler.tokenizer, sampler.template
        self.chat_prompt, self.text_prompt = sampler.chat_prompt, sampler.text_prompt
        self._lock = threading.Lock()

    @classmethod
    def from_checkpoint(cls, path: Path | str, adapters: Mapping[str, Path | str] = {}, **more: Any) -> Engine:
        return cls(Sampler.from_checkpoint(path, batch=1))

    def submit(self, request: Request, on_piece: Callable[[str], None] | None = None) -> Future[Generation]:
        future: Future[Generation] = Future()

        def run() -> None:
            with self._lock:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    got = self.sampler.generate([request.prompt], request.sampling)[0]
                except Exception as error:
                    future.set_exception(error)
                    return
                for piece in got.text:
                    if on_piece:
                        on_piece(piece)
                future.set_result(got)

        threading.Thread(target=run, daemon=True).start()
        return future

    def close(self, drain: bool = True) -> None:
        pass
