"""Runs jobs that lead to further jobs, a bounded number at a time, without a task for each that waits."""

import asyncio
import heapq
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


async def run(first: Iterable[Job], limit: int) -> None:
    """Runs jobs, and those that they lead to, until none is left; at most `limit` of them at a time.

    Where one raises, no further job starts, those that run are finished (what they have asked for is being paid), and
    the
    first exception is raised. Where this function itself is cancelled, they are cancelled.
    """
    waiting = list(first)
    heapq.heapify(waiting)
    running: set[asyncio.Task[Iterable[Job]]] = set()
    finished: asyncio.Queue[asyncio.Task[Iterable[Job]]] = asyncio.Queue()
    problem: BaseException | None = None
    try:
        while running or (waiting and problem is None):
            while waiting and len(running) < limit and problem is None:
                job = heapq.heappop(waiting)
                # A task of its own, so that what a library remembers of a call ends with it.
                task = asyncio.ensure_future(_await(job))
                running.add(task)
                task.add_done_callback(finished.put_nowait)
            task = await finished.get()
            running.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                problem = problem or error
            else:
                for job in task.result():
                    heapq.heappush(waiting, job)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if problem is not None:
        raise problem


async def _await(job: Job) -> Iterable[Job]:
    return await job.work(*job.args)
