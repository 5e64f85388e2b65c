"""What the engine is asked for and what it answers, and how a reply's text is made of the tokens that were drawn."""

import bisect
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from msm_jax.data.tokenizers import Tokenizer
from msm_jax.sampling.config import SamplingConfig


@dataclass(frozen=True)
class Request:
    """One prompt, and how to draw one reply to it.

    Attributes:
        prompt: token ids, at least one.
        sampling: how to draw. Its `seed` is this request's.
        adapter: the name of the adapter to apply; "" for the model as it was loaded.
        logprobs: asks for the log-probability of each drawn token, and of so many of the most likely tokens in its
            place; None for neither.
    """

    prompt: Sequence[int]
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    adapter: str = ""
    logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability (nats) of a drawn token, and the most likely ids with theirs, the most likely first.

    It is the model's own: at temperature 1, over all ids of the tokenizer.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Generation:
    """One reply.

    Attributes:
        text: the reply, without stop string, end of turn and other special tokens.
        ids: the tokens that were drawn. The last one is the stop id, or the token that completes a stop string, if one
            ended the reply.
        finish_reason: "stop" if a stop id or stop string ended the reply, "length" if `max_new_tokens` did.
        logprobs: an entry for each of `ids`; None unless the request asked for them.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(eq=False)
class Job:
    """A request in the engine, and how far it is.

    Attributes:
        request: what was asked.
        stop_ids: ids that end the reply.
        adapters: which of the engine's adapters apply.
        keys: from `pages.prefix_keys`, of the prompt without its last token.
        on_piece: takes the text as it becomes certain; None if nobody listens.
        future: where the answer goes; a job whose future is cancelled is dropped.
        pages: its pages in the cache.
        filled: how many tokens of the prompt are in the cache.
        ids: the tokens that were drawn.
        logprobs: their log-probabilities, if asked for.
        said: how many characters `on_piece` has been given.
    """

    request: Request
    stop_ids: tuple[int, ...]
    adapters: frozenset[int]
    keys: Sequence[bytes]
    on_piece: Callable[[str], None] | None
    future: "Future[Generation]" = field(default_factory=Future)
    pages: list[int] = field(default_factory=list)
    filled: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    said: int = 0

    @property
    def remaining(self) -> int:
        """How many tokens the reply may still have."""
        return self.request.sampling.max_new_tokens - len(self.ids)

    @property
    def slots(self) -> int:
        """How many tokens are in the cache when the reply has its full length; the last one is never written."""
        return len(self.request.prompt) - 1 + self.request.sampling.max_new_tokens


class Texts:
    """Turns drawn tokens into text, with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Takes the tokenizer of the model."""
        self._tokenizer = tokenizer
        self._specials = frozenset(tokenizer.specials.values())

    def advance(self, job: Job) -> Generation | None:
        """Returns the reply if it has ended, cut at the first stop string; else says what of its text is certain."""
        stopped = job.ids[-1] in job.stop_ids
        ended = stopped or job.remaining == 0
        stops = job.request.sampling.stop
        if not ended and not stops and job.on_piece is None:
            return None
        body = job.ids[:-1] if stopped else job.ids
        text = self._decoded(job, body)
        kept = len(job.ids)
        if any(stop in text for stop in stops):
            # The fewest tokens whose text holds a stop string: the reply does not depend on when the search happened.
            kept = bisect.bisect_left(
                range(len(body)), True, key=lambda n: any(stop in self._decoded(job, body[:n]) for stop in stops)
            )
            text = self._decoded(job, body[:kept])
            text = text[: min(text.index(stop) for stop in stops if stop in text)]
            ended = stopped = True
        self._say(job, text if ended else text[: _certain(text, stops)])
        if not ended:
            return None
        logprobs = None if job.request.logprobs is None else tuple(job.logprobs[:kept])
        return Generation(text, tuple(job.ids[:kept]), "stop" if stopped else "length", logprobs)

    def _decoded(self, job: Job, ids: Sequence[int]) -> str:
        # A reply that continues a text keeps the space between them; one that follows a marker begins without a space.
        return self._tokenizer.decode(ids, continues=job.request.prompt[-1] not in self._specials)

    def _say(self, job: Job, text: str) -> None:
        if job.on_piece is not None and len(text) > job.said:
            job.on_piece(text[job.said :])
            job.said = len(text)


def _certain(text: str, stops: Sequence[str]) -> int:
    """Returns how many characters of a text stay as they are, whatever follows.

    The last ones may be the beginning of a stop string, or stand for the first bytes of a character. Spaces at the end
    may go when more tokens follow.
    """
    whole = text.rstrip("�").rstrip(" ")
    for begin in range(max(0, len(whole) - max(map(len, stops), default=0)), len(whole)):
        if any(stop.startswith(whole[begin:]) for stop in stops):
            return begin
    return len(whole)
