"""What an eval comes to, ready for JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EvalResult:
    """Scores per item.

    Attributes:
        items: {"id", "score": 0 to 1, or None where no answer could be read, ...what the score rests on}.
        mean: of the scores that are there; None without any.
        n_items: items asked, scored or not.
        parse_rate: share of answers that could be read; None where none was generated.
        transcripts: {"id", "order", "prompt": messages, "reply", "parsed": option or None, "score"} per answer.
    """

    items: list[dict[str, Any]]
    mean: float | None
    n_items: int
    parse_rate: float | None
    transcripts: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return dataclasses.asdict(self)


def gathered(
    items: Sequence[dict[str, Any]], transcripts: Sequence[dict[str, Any]] = (), parse_rate: float | None = None
) -> EvalResult:
    """The result of these items, each with its score."""
    scores = [item["score"] for item in items if item["score"] is not None]
    mean = statistics.fmean(scores) if scores else None
    return EvalResult(list(items), mean, len(items), parse_rate, list(transcripts))
