"""The reasons that arms give in their transcripts: the rate of each reason by arm, as in figure 11 of arXiv 2605.02087.

All arms are classified by one code book, so their rates compare.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msm_jax.analysis import results as results_lib
from msm_jax.analysis import statistics
from msm_jax.analysis.dependence import Floats
from msm_jax.analysis.intervals import Interval
from msm_jax.analysis.sentences import points

# The share of full colour of a rate of 1, so that its text stays readable.
_COLOR = 55


@dataclasses.dataclass(frozen=True)
class Rate:
    """How often an arm gives a reason.

    Attributes:
      rate: the share of the transcripts with a verdict that give it; NaN where none has a verdict.
      interval: its 95 % interval over seeds and items.
      seeds: the runs.
      transcripts: of all runs.
      without_verdict: the share of the transcripts that no verdict tells of.
    """

    rate: float
    interval: Interval
    seeds: int
    transcripts: int
    without_verdict: float


Rates = Mapping[str, Rate]


def rate(values_SN: Floats, labels: Sequence[tuple[str, ...]]) -> Rate:
    """Returns the rate of one reason, given 1, 0 or NaN for each run and transcript, and what transcripts share."""
    unknown = np.isnan(values_SN)
    runs, count, share = len(values_SN), values_SN.size, float(unknown.mean())
    if unknown.all():
        return Rate(math.nan, Interval(math.nan, math.nan, "no verdict"), runs, count, share)
    ends = statistics.interval95(values_SN, tuple(labels))
    return Rate(statistics.summarise(values_SN).mean, ends, runs, count, share)


def of(results: results_lib.Results) -> dict[str, dict[str, Rates]]:
    """Returns {eval: {arm: {reason: its rate}}} for the evals whose items hold reasons."""
    found: dict[str, dict[str, Rates]] = {}
    for name in results.evals():
        for arm, evals in results.arms.items():
            if name in evals and evals[name].reasons:
                scores = evals[name]
                rows = {reason: scores.gives(reason)[scores.ran_S] for reason in scores.reasons}
                found.setdefault(name, {})[arm] = {
                    reason: rate(values_SN, scores.labels) for reason, values_SN in rows.items()
                }
    return found


def sections(
    rates: Mapping[str, Mapping[str, Rates]], codes: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Returns a table for each eval: its arms, and a row for each reason, the harmful ones first.

    Args:
      rates: as `of` returns them.
      codes: the code book of each eval that is known: "id", "definition" and "harmful" of each reason.
    """
    return [_section(name, arms, codes.get(name, ())) for name, arms in rates.items()]


def _section(name: str, arms: Mapping[str, Rates], codes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    known = {code["id"]: code for code in codes}
    reasons = dict.fromkeys(reason for found in arms.values() for reason in found)
    ordered = sorted(reasons, key=lambda reason: not known.get(reason, {}).get("harmful", False))
    rows = [
        {
            "reason": reason,
            "definition": known.get(reason, {}).get("definition", ""),
            "harmful": known.get(reason, {}).get("harmful", False),
            "cells": [_cell(found[reason]) if reason in found else _cell(None) for found in arms.values()],
        }
        for reason in ordered
    ]
    firsts = [next(iter(found.values())) for found in arms.values()]
    counts = [f"{each.transcripts:,}" for each in firsts]
    return {"eval": name, "arms": list(arms), "rows": rows, "counts": counts, "known": bool(known)}


def _cell(found: Rate | None) -> dict[str, str]:
    if found is None or math.isnan(found.rate):
        return {"text": "", "interval": "", "style": ""}
    ends = f"{points(found.interval.low)} to {points(found.interval.high)}"
    color = f"background:color-mix(in srgb, var(--above) {round(_COLOR * found.rate)}%, var(--card))"
    return {"text": points(found.rate), "interval": ends, "style": color}
