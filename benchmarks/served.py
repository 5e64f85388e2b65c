"""A model behind the engine's slots, without a tokenizer, for benchmarks that count tokens."""

from __future__ import annotations

from collections.abc import Sequence

from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.sampling import slots
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.pages import prefix_keys
from msm_jax.sampling.requests import Generation, Job, Request, Texts

PAGE = 128


class Served:
    """A model behind the engine's slots, without a tokenizer: replies are ids and end at their length."""

    def __init__(self, config: ModelConfig, unstacked: transformer.Params, rows: int, pages: int) -> None:
        """Reserves a cache of `pages` pages."""
        self._unstacked = unstacked
        self._make = lambda: slots.Slots(config, config.vocab_size, _Lengths(), rows, PAGE, pages + 1, 0)
        self.forget()

    def forget(self) -> None:
        """Begins with an empty cache."""
        self._slots = self._make()

    @property
    def stats(self) -> slots.Stats:
        """What was done since the cache was empty."""
        return self._slots.stats

    def answer(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[tuple[int, ...]]:
        """Returns the greedy replies to prompts, each with its number of tokens."""
        jobs = [
            Job(
                Request(prompt, SamplingConfig(max_new_tokens=new, temperature=0.0)), (), frozenset(),
                prefix_keys(prompt[:-1], PAGE, b""), None,
            )
            for prompt, new in asked
        ]
        self._slots.add(jobs)
        while not self._slots.idle:
            self._slots.advance(self._unstacked)
        return [job.future.result().ids for job in jobs]


class _Lengths(Texts):
    """Ends replies at their length, without a tokenizer."""

    def __init__(self) -> None:
        """Takes nothing."""

    def advance(self, job: Job) -> Generation | None:
        """Returns the reply if it has ended."""
        return None if job.remaining else Generation("", tuple(job.ids), "length")
