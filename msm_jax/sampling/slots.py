"""Continuous batching: which requests are prefilled and which decode in the rows of the cache, from call to call.

A request waits, is prefilled page by page, then waits for a free row, and decodes there until its reply ends. Pages are
reserved for the whole request when its prefill begins, so one that has begun never waits for memory.

A reply's bits do not depend on the other requests. The calls of a prefill follow from the prompt alone, and every call
of a program has the same shapes.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from msm_jax.models import paged, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.paged import Paged
from msm_jax.sampling import decode
from msm_jax.sampling.draw import Drawing
from msm_jax.sampling.pages import Pages
from msm_jax.sampling.requests import Job, Texts, TokenLogprob

log = logging.getLogger(__name__)

# Calls of `prefill` between two of `decode`, for each row that is free, and in all: the other rows wait meanwhile.
_PREFILLS, _MOST_PREFILLS = 8, 64
# Steps of one call of `decode`: as many as fit into this time, within these bounds.
_DECODE_SECONDS, _FEWEST_STEPS, _MOST_STEPS = 0.1, 4, 32
# Seconds between two reports of progress in the log.
_REPORT_SECONDS = 30.0


@dataclass
class Stats:
    """What an engine has done so far.

    Attributes:
        slots: the rows that decode side by side.
        requests: replies that were finished.
        prefill_tokens: tokens of prompts that were run. shared_tokens: those found in the cache instead.
        decode_tokens: tokens that were drawn.
        prefill_seconds, decode_seconds: the time of both. host_seconds: the time between them.
        steps: steps of decoding. busy_steps: the sum over them of the rows that drew a token.
        crowded_steps, crowded_busy_steps: the same, of the steps during which further requests waited.
    """

    slots: int = 0
    requests: int = 0
    prefill_tokens: int = 0
    shared_tokens: int = 0
    decode_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    host_seconds: float = 0.0
    steps: int = 0
    busy_steps: int = 0
    crowded_steps: int = 0
    crowded_busy_steps: int = 0

    @property
    def busy_share(self) -> float:
        """The share of the rows that drew a token in a step, while requests waited for a row; 1 if none ever did."""
        return self.crowded_busy_steps / (self.slots * self.crowded_steps) if self.crowded_steps else 1.0

    @property
    def decode_rate(self) -> float:
        """Tokens drawn per second of decoding."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens run per second of prefill."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    def copy(self) -> "Stats":
        """Returns the numbers as they are now."""
        return Stats(**{each.name: getattr(self, each.name) for each in fields(self)})


class Slots:
    """The rows and pages of one engine. All methods are for one thread at a time, on the engine's mesh."""

    def __init__(
        self, config: ModelConfig, known_ids: int, texts: Texts, slots: int, page: int, pages: int, adapters: int
    ) -> None:
        """Reserves the cache.

        Args:
            config: the model's shape.
            known_ids: the number of the tokenizer's ids.
            texts: makes the replies' texts.
            slots: the rows that decode side by side.
            page: the tokens of a page.
            pages: the number of pages, with page 0.
            adapters: how many adapters the parameters have.
        """
        self.config, self.page, self.stats = config, page, Stats(slots)
        self._known_ids, self._texts, self._adapters = known_ids, texts, adapters
        self._sizes = decode.prefill_sizes(page)
        self._pages = Pages(pages)
        self._caches: list[paged.Cache] | None = None
        self._waiting: deque[Job] = deque()
        self._prefilling: list[Job] = []
        self._ready: deque[Job] = deque()
        self._rows: list[Job | None] = [None] * slots
        self._tables_BP = np.zeros((slots, max(paged.NEAR, -(-config.max_position_embeddings // page))), np.int32)
        self._step_seconds = 0.0
        self._reported = time.monotonic()

    def set_adapters(self, number: int) -> None:
        """Notes that the parameters now have so many adapters."""
        self._adapters = number

    def add(self, jobs: Iterable[Job]) -> None:
        """Puts requests into the queue."""
        self._waiting.extend(jobs)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._prefilling or self._ready or any(self._rows))

    def jobs(self) -> list[Job]:
        """Returns all requests that are not finished."""
        return [*self._waiting, *self._prefilling, *self._ready, *(job for job in self._rows if job is not None)]

    def clear(self) -> None:
        """Forgets all requests and the content of the cache, after a failure."""
        self._pages = Pages(self._pages.count)
        self._caches = None
        self._waiting.clear()
        self._prefilling.clear()
        self._ready.clear()
        self._rows = [None] * len(self._rows)
        self._tables_BP[:] = 0

    def advance(self, unstacked: transformer.Params) -> None:
        """Begins requests, runs some prefill and some steps of decoding, and answers what has ended."""
        start = time.monotonic()
        before = self.stats.prefill_seconds + self.stats.decode_seconds
        if self._caches is None:
            make = jax.jit(paged.init, static_argnums=(0, 1, 2, 3))
            self._caches = make(self.config, self._pages.count, self.page, len(self._rows))
        self._drop_cancelled()
        self._admit()
        self._prefill(unstacked)
        self._insert()
        if any(self._rows):
            self._decode(unstacked)
        now = time.monotonic()
        self.stats.host_seconds += now - start - (self.stats.prefill_seconds + self.stats.decode_seconds - before)
        if now - self._reported > _REPORT_SECONDS:
            self._reported = now
            self._report()

    def _report(self) -> None:
        s = self.stats
        log.info(
            "%d requests answered, %d to go; %.0f tokens/s of prefill, %.0f tokens/s of decoding, slots busy %.0f %%",
            s.requests, len(self.jobs()), s.prefill_rate, s.decode_rate, 100 * s.busy_share,
        )

    def _drop_cancelled(self) -> None:
        begun = [*self._prefilling, *self._ready, *(job for job in self._rows if job is not None)]
        for job in begun:
            if job.future.cancelled():
                self._leave(job)
                job.future.set_running_or_notify_cancel()

    def _leave(self, job: Job) -> None:
        """Takes a request that has begun out of wherever it is, and gives its pages back."""
        for queue in (self._prefilling, self._ready):
            if job in queue:
                queue.remove(job)
        if job in self._rows:
            row = self._rows.index(job)
            self._rows[row] = None
            self._tables_BP[row] = 0
        self._pages.release(job.pages)
        job.pages = []

    @property
    def _wanted(self) -> int:
        """The number of requests that could begin to decode now, if they were prefilled."""
        return max(0, self._rows.count(None) - len(self._ready))

    def _admit(self) -> None:
        """Reserves the pages of waiting requests, in order, for the free rows and a few more.

        A request whose next page is just being computed for another one waits until it can share that page.
        """
        most = self._rows.count(None) + 1 + len(self._rows) // 8
        computing = {job.keys[job.filled // self.page] for job in self._prefilling}
        copies: list[tuple[int, int]] = []
        for job in list(self._waiting):
            if len(self._prefilling) + len(self._ready) >= most:
                break
            if job.future.cancelled():
                self._waiting.remove(job)
                job.future.set_running_or_notify_cancel()
                continue
            unknown = next((key for key in job.keys if not self._pages.knows(key)), None)
            if unknown in computing:
                continue
            if not self._reserve(job, copies):
                break
            self._waiting.remove(job)
            if job.filled == len(job.request.prompt) - 1:
                self._ready.append(job)
            else:
                self._prefilling.append(job)
                computing.add(job.keys[job.filled // self.page])
        self._copy(copies)

    def _reserve(self, job: Job, copies: list[tuple[int, int]]) -> bool:
        """Gives a request its pages, those of known prefixes among them; returns whether there were enough.

        A known page that the prompt does not fill is copied, because the reply goes on in it.
        """
        length = len(job.request.prompt) - 1
        whole = length // self.page
        shared: list[int] = []
        for key in job.keys[:whole]:
            page = self._pages.share(key)
            if page is None:
                break
            shared.append(page)
        needed = -(-job.slots // self.page) - len(shared)
        last = self._pages.share(job.keys[-1]) if len(shared) == whole < len(job.keys) else None
        if last is not None and self._pages.available < needed:
            # The page to copy from is the one that is missing.
            self._pages.release([last])
            last = None
        if self._pages.available < needed:
            self._pages.release(shared)
            return False
        job.pages = shared + self._pages.take(needed)
        job.filled = len(shared) * self.page
        if last is not None:
            copies.append((last, job.pages[whole]))
            job.filled = length
        self.stats.shared_tokens += job.filled
        return True

    def _copy(self, copies: Sequence[tuple[int, int]]) -> None:
        for begin in range(0, len(copies), decode.COPIES):
            some = [*copies[begin : begin + decode.COPIES], *[(0, 0)] * decode.COPIES][: decode.COPIES]
            sources, targets = np.asarray(some, np.int32).T
            assert self._caches is not None
            self._caches = decode.copy_pages(self._caches, sources, targets)
        self._pages.release(source for source, _ in copies)

    def _prefill(self, unstacked: transformer.Params) -> None:
        """Runs the prompts that were admitted, a bounded number of calls."""
        start = time.monotonic()
        for _ in range(min(_PREFILLS * max(1, self._wanted), _MOST_PREFILLS)):
            if not self._prefilling:
                break
            size = self._next_size(self._prefilling[0])
            alike = [job for job in self._prefilling if self._next_size(job) == size]
            self._prefill_once(unstacked, size, alike[: self.page // size])
        jax.block_until_ready(self._caches)
        self.stats.prefill_seconds += time.monotonic() - start

    def _next_size(self, job: Job) -> int:
        left = len(job.request.prompt) - 1 - job.filled
        return next(size for size in self._sizes if size >= min(left, self.page))

    def _prefill_once(self, unstacked: transformer.Params, size: int, jobs: Sequence[Job]) -> None:
        rows = self.page // size
        tokens_RT = np.zeros((rows, size), np.int32)
        starts_R = np.zeros(rows, np.int32)
        tables_RP = np.zeros((rows, self._tables_BP.shape[1]), np.int32)
        uses_AR = np.zeros((self._adapters, rows), np.float32)
        for row, job in enumerate(jobs):
            ids = job.request.prompt[job.filled : min(job.filled + self.page, len(job.request.prompt) - 1)]
            tokens_RT[row, : len(ids)] = ids
            starts_R[row] = job.filled
            tables_RP[row, : len(job.pages)] = job.pages
            uses_AR[list(job.adapters), row] = 1
            self.stats.prefill_tokens += len(ids)
        self._caches = decode.prefill(
            unstacked, self.config, self._caches, tokens_RT, starts_R, tables_RP, uses_AR
        )
        for job in jobs:
            index = job.filled // self.page
            self._pages.register(job.pages[index], job.keys[index])
            job.filled = min(job.filled + self.page, len(job.request.prompt) - 1)
            if job.filled == len(job.request.prompt) - 1:
                self._prefilling.remove(job)
                self._ready.append(job)

    def _insert(self) -> None:
        """Gives free rows to requests whose prompts are in the cache."""
        rows = [row for row, there in enumerate(self._rows) if there is None][: len(self._ready)]
        for row in rows:
            job = self._ready.popleft()
            self._rows[row] = job
            self._tables_BP[row, : len(job.pages)] = job.pages
        for begin in range(0, len(rows), decode.COPIES):
            some = rows[begin : begin + decode.COPIES]
            some += some[:1] * (decode.COPIES - len(some))
            self._caches = decode.place(
                self._caches, np.asarray(some, np.int32), self._tables_BP[some, : paged.NEAR]
            )

    def _decode(self, unstacked: transformer.Params) -> None:
        """Draws some tokens in all rows that are in use."""
        jobs = {row: job for row, job in enumerate(self._rows) if job is not None}
        crowded = bool(self._waiting or self._prefilling or self._ready)
        steps = int(np.clip(_DECODE_SECONDS / max(self._step_seconds, 1e-6), _FEWEST_STEPS, _MOST_STEPS))
        if crowded:
            steps = min(steps, max(_FEWEST_STEPS, min(job.remaining for job in jobs.values())))
        start = time.monotonic()
        self._caches, drawn = decode.decode(
            unstacked, self.config, self._caches, self._state(jobs), np.int32(steps), np.int32(self._known_ids),
            _MOST_STEPS,
        )
        tokens_BN, counts_B, ran = np.asarray(drawn.tokens_BN), np.asarray(drawn.counts_B), int(drawn.steps)
        took = time.monotonic() - start
        self._step_seconds = took / ran
        total = int(counts_B.sum())
        self.stats.decode_seconds += took
        self.stats.decode_tokens += total
        self.stats.steps += ran
        self.stats.busy_steps += total
        if crowded:
            self.stats.crowded_steps += ran
            self.stats.crowded_busy_steps += total
        scored = any(job.request.logprobs is not None for job in jobs.values())
        given = (drawn.chosen_BN, drawn.likely_BNA, drawn.likely_log_BNA) if scored else ()
        scores = [np.asarray(each) for each in given]
        for row, job in jobs.items():
            count = int(counts_B[row])
            job.ids += tokens_BN[row, :count].tolist()
            if job.request.logprobs is not None:
                job.logprobs += _scores([each[row, :count] for each in scores], job.request.logprobs)
            reply = self._texts.advance(job)
            if reply is not None:
                self._leave(job)
                self.stats.requests += 1
                if job.future.set_running_or_notify_cancel():
                    job.future.set_result(reply)

    def _state(self, jobs: dict[int, Job]) -> decode.Rows:
        """Returns the arrays that tell the compiled program about the rows."""

        def column(of: Callable[[Job], float], empty: float, dtype: type) -> Any:
            return np.array([of(jobs[row]) if row in jobs else empty for row in range(len(self._rows))], dtype)

        stops = max((len(job.stop_ids) for job in jobs.values()), default=0)
        stop_ids_BK: Any = np.full((len(self._rows), max(8, 1 << (stops - 1).bit_length())), -1, np.int32)
        uses_AB: Any = np.zeros((self._adapters, len(self._rows)), np.float32)
        for row, job in jobs.items():
            stop_ids_BK[row, : len(job.stop_ids)] = job.stop_ids
            uses_AB[list(job.adapters), row] = 1
        tables_BP: Any = self._tables_BP
        positions_B = column(lambda job: len(job.request.prompt) - 1 + len(job.ids), 0, np.int32)
        order_B: Any = np.argsort(positions_B, kind="stable").astype(np.int32)
        drawing = Drawing(
            column(lambda job: job.request.sampling.seed, 0, np.int32),
            column(lambda job: job.request.sampling.temperature, 0, np.float32),
            column(lambda job: job.request.sampling.top_k, 0, np.int32),
            column(lambda job: job.request.sampling.top_p, 1, np.float32),
        )
        return decode.Rows(
            column(lambda job: (job.ids or job.request.prompt)[-1], 0, np.int32),
            positions_B,
            column(lambda job: job.remaining, 0, np.int32),
            Paged(tables_BP, order_B),
            drawing,
            stop_ids_BK,
            column(lambda job: job.request.logprobs is not None, False, np.bool_),
            uses_AB,
        )


def _scores(scores: Sequence[np.ndarray], alternatives: int) -> list[TokenLogprob]:
    """Returns an entry for each drawn token of a row: chosen [N], likely ids [N, A], and their log-probabilities."""
    return [
        TokenLogprob(float(chosen), tuple(zip(ids[:alternatives].tolist(), logs[:alternatives].tolist(), strict=True)))
        for chosen, ids, logs in zip(*scores, strict=True)
    ]
