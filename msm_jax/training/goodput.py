"""Where the time of a run went: a ledger in `goodput.jsonl`, to which every start of the run appends.

A line has the last step and the seconds since the line before: {"step": 120, "seconds": {"step": 9.81, "data_wait":
0.02}}. The first line of each start also has the step from which it went on: {"resumed": 100, "step": 101, ...}. Lines
are written every few seconds and at each checkpoint, so a kill costs the entries of the last seconds. `summary` adds
them up over all starts, and leaves out what a kill cut short.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, TextIO

from msm_jax.foundation import storage

NAME = "goodput.jsonl"
# What the loop does: until its data and state are there, compiling the train step, waiting for the next batch, waiting
# for a step, saving (as long as training stands still), held-out loss with its compilation, and writing a trace.
KINDS = ("startup", "compile", "data_wait", "step", "checkpoint", "evaluation", "trace")
# Seconds of any of these but the first two, for steps that a later start did again.
LOST = "lost"

_FLUSH_SECONDS = 5.0


class Ledger:
    """Divides the time since `began` (of `time.monotonic`) among KINDS; the parts add up to all of it."""

    def __init__(self, began: float) -> None:
        self._at = self._flushed = began
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._step = 0
        self._first: dict[str, int] = {}
        self._path = Path()
        self._file: TextIO | None = None

    def open(self, path: Path, resumed: int) -> None:
        """Appends to the ledger at `path` from now on, as a start that goes on from the step `resumed`.

        Raises:
            WorkError: (also `spent`, `flush` and `close`) the file cannot be written.
        """
        with storage.writing(path):
            if path.exists():
                content = path.read_bytes()
                with path.open("r+b") as file:  # a kill may have cut the last line short
                    file.truncate(content.rfind(b"\n") + 1)
            self._file = path.open("a", encoding="utf-8")
        self._path, self._step, self._first = path, resumed, {"resumed": resumed}

    def spent(self, kind: str, step: int = 0) -> None:
        """Adds the time since the last call to `kind`, as part of the work up to `step`."""
        now = time.monotonic()
        self._seconds[kind] += now - self._at
        self._at, self._step = now, max(step, self._step)
        if now - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes a line on the time since the last one; nothing before `open`."""
        if self._file is None or not self._seconds:
            return
        seconds = {kind: round(self._seconds[kind], 4) for kind in KINDS if kind in self._seconds}
        line = json.dumps({**self._first, "step": self._step, "seconds": seconds})
        self._flushed = self._at
        self._first = {}
        self._seconds.clear()
        with storage.writing(self._path):
            self._file.write(f"{line}\n")
            self._file.flush()

    def close(self) -> None:
        """Writes the last line and closes the file."""
        if self._file is not None:
            try:
                self.flush()
            finally:
                self._file.close()


def summary(run_dir: Path) -> dict[str, float]:
    """Returns the seconds of each of KINDS and of LOST over all starts of a run; empty for a run without a ledger."""
    path = run_dir / NAME
    if not path.is_file():
        return {}
    sums: dict[str, float] = dict.fromkeys((*KINDS, LOST), 0.0)
    again = float("inf")  # the earliest step that a later start went on from: what is beyond was done again
    for line in reversed(_lines(path)):
        for kind, seconds in line["seconds"].items():
            is_lost = line["step"] > again and kind not in ("startup", "compile")
            sums[LOST if is_lost else kind] += seconds
        again = min(again, line.get("resumed", again))
    return sums


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # the last part is empty, or what a kill left of a line
