"""Runs jobs that lead to further jobs, a bounded number at a time, without a task for each that waits.

Jobs that start together end together where all calls take equally long, and then nothing is in flight while their
replies are read. So starts are spread: they come at no more than twice the rate at which jobs end in the long run.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple


class Job(NamedTuple):
    """A piece of work that waits for its turn.

    Attributes:
        rank: jobs of a lower rank go first. Planning goes before writing, so that there is always something to write.
        order: among jobs of one rank, the lower goes first; no two jobs of a rank share one.
        work: what is awaited; it returns the jobs that it has made possible.
        args: its arguments.
    """

    rank: int
    order: tuple[int, ...]
    work: Callable[..., Awaitable[Iterable["Job"]]]
    args: tuple[Any, ...]


# Starts of as many jobs as may run at a time are spread over no more than this; a batch of calls, which may take an
# hour, is sent as one.
_MOST_SECONDS = 5.0
# The weight of the job that ended last in the mean time of a job.
_WEIGHT = 0.05


class _Pace:
    """When jobs may start.

    Attributes:
        next: the earliest moment for the next one.
    """

    def __init__(self, limit: int, spread: bool) -> None:
        self.next = 0.0
        self._limit, self._mean = limit, 0.0
        self._most = _MOST_SECONDS if spread else 0.0

    def start(self, now: float) -> None:
        """Notes a start; as many as may run at a time take half the time of a job. A tenth of them may be late and
        start at once."""
        spread = min(self._mean / 2, self._most)
        self.next = max(self.next, now - spread / 10) + spread / self._limit

    def end(self, seconds: float) -> None:
        """Notes how long a job took."""
        self._mean += _WEIGHT * (seconds - self._mean)


async def run(first: Iterable[Job], limit: int, spread: bool = True) -> None:
    """Runs jobs, and those that they lead to, until none is left; at most `limit` of them at a time.

    Where one raises, no further job starts, those that run are finished (what they have asked for is being paid), and
    the first exception is raised. Where this function itself is cancelled, they are cancelled.

    Args:
        first: the jobs to begin with.
        limit: how many run at a time.
        spread: whether starts are spread; False for a model that answers those calls together that come together.
    """
    waiting = list(first)
    heapq.heapify(waiting)
    running: dict[asyncio.Task[Iterable[Job]], float] = {}
    # None says that the next job is due.
    finished: asyncio.Queue[asyncio.Task[Iterable[Job]] | None] = asyncio.Queue()
    problem: BaseException | None = None
    pace, is_due = _Pace(limit, spread), True
    try:
        while running or (waiting and problem is None):
            while waiting and len(running) < limit and problem is None and is_due:
                now = time.monotonic()
                if pace.next > now:
                    is_due = False
                    asyncio.get_running_loop().call_later(pace.next - now, finished.put_nowait, None)
                    continue
                job = heapq.heappop(waiting)
                # A task of its own, so that what a library remembers of a call ends with it.
                task = asyncio.ensure_future(_await(job))
                running[task] = now
                pace.start(now)
                task.add_done_callback(finished.put_nowait)
            ended = await finished.get()
            if ended is None:
                is_due = True
                continue
            pace.end(time.monotonic() - running.pop(ended))
            error = None if ended.cancelled() else ended.exception()
            if error is not None:
                problem = problem or error
            else:
                for job in ended.result():
                    heapq.heappush(waiting, job)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if problem is not None:
        raise problem


async def _await(job: Job) -> Iterable[Job]:
    return await job.work(*job.args)
