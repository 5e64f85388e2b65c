"""The log of a scripted server, a line of JSON for each request, and what tests read in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Entry:
    """A request: the hash of its prompt, what became of it, and when, in seconds since 1970.

    `status` is that of the response, 0 where the client was gone before it was written; `fault` names what was done
    to it, "" for nothing.
    """

    prompt_sha256: str
    stage: str
    seed: int | None
    status: int
    fault: str
    began: float
    written: float
    prompt_tokens: int
    completion_tokens: int


class Log:
    """Counts requests in flight, and appends an entry for each to a file where one is named."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = None if path is None else path.open("a", encoding="utf-8", buffering=1)
        self.requests = self.replies = self.in_flight = self.peak = 0

    def begin(self) -> float:
        """Counts a request as in flight and returns the time."""
        self.requests += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        return time.time()

    def end(self, entry: Entry) -> None:
        """Counts a request as ended and writes its entry."""
        self.in_flight -= 1
        self.replies += entry.status == 200
        if self._file:
            self._file.write(json.dumps(asdict(entry), separators=(",", ":")) + "\n")

    def totals(self) -> dict[str, int]:
        """Returns the counts of requests, replies with status 200, requests in flight and the most that ever were."""
        return {"requests": self.requests, "replies": self.replies, "in_flight": self.in_flight, "peak": self.peak}


def read(path: Path) -> list[Entry]:
    """Returns the entries of a log; a line that was cut by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [Entry(**json.loads(line)) for line in lines if line.endswith("\n")]


def first_in_flight(entries: Iterable[Entry], at_least: int) -> float:
    """Returns the first time at which so many requests were in flight.

    Raises:
        ValueError: there were never so many.
    """
    count = 0
    for moment, step in _changes(entries):
        count += step
        if count >= at_least:
            return moment
    raise ValueError(f"there were never {at_least} requests in flight")


def _changes(entries: Iterable[Entry]) -> list[tuple[float, int]]:
    """Returns each time at which a request begins (1) or ends (-1), in order; of equal times, ends first."""
    return sorted((moment, step) for e in entries for moment, step in ((e.began, 1), (e.written, -1)))


def share_in_flight(entries: Iterable[Entry], at_least: int, since: float, until: float) -> float:
    """Returns the share of the time from `since` to `until` in which at least so many requests were in flight."""
    count, before, enough = 0, since, 0.0
    for moment, step in [*_changes(entries), (until, 0)]:
        at = min(max(moment, since), until)
        enough += (at - before) * (count >= at_least)
        before, count = at, count + step
    return enough / (until - since)
