"""The engine's interface over samplers, until the engine is there. What serving asks of it:

`submit` may be called from any thread, and refuses with an `InputError` at once what can never fit. `on_piece` gets
pieces of text whose sum is a beginning of the reply's text: no half characters, nothing of a stop string. Cancelling
the future frees the slot, also while the reply is being drawn. Each adapter has its own stop ids, since it may have a
template of its own. `close` waits until no thread computes, since one at the interpreter's end aborts the process. With
`Request.logprobs = k`, `Generation.logprobs` has an entry for each id: its log-probability, and k pairs of id and
log-probability of the most likely ids.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

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

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._samplers = {"": Sampler.from_checkpoint(path, batch=1)}
        self.config = self._samplers[""].config
        self._lock = threading.Lock()

    @classmethod
    def from_checkpoint(cls, path: Path | str, adapters: Mapping[str, Path | str]) -> Engine:
        made = cls(path)
        for name, adapter in adapters.items():
            made.add_adapter(name, adapter)
        return made

    def add_adapter(self, name: str, path: Path | str) -> None:
        self._samplers[name] = Sampler.from_checkpoint(self._path, adapter=path, batch=1)

    def submit(self, request: Request, on_piece: Callable[[str], None] | None = None) -> Future[Generation]:
        future: Future[Generation] = Future()

        def run() -> None:
            with self._lock:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    got = self._samplers[request.adapter].generate([request.prompt], request.sampling)[0]
                except Exception as error:  # until the engine is there
                    future.set_exception(error)
                    return
                for piece in got.text:
                    if on_piece:
                        on_piece(piece)
                future.set_result(got)

        threading.Thread(target=run, daemon=True).start()
        return future

    def close(self, drain: bool = True) -> None:
        with self._lock:
            pass
