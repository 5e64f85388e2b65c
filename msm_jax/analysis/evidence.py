"""What stands behind the numbers of the page: rates of the answers beside each score, and transcripts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from msm_jax.analysis.findings import Findings
from msm_jax.analysis.intervals import Interval
from msm_jax.analysis.sentences import points

SAMPLES_PER_EVAL = 6
SAMPLE_CHARS = 6_000
# What the head of a transcript says of it, in this order.
_OUTCOMES = (
    "cell", "condition", "parsed", "score", "act", "grade", "fakes", "uses tool", "refuses", "refused", "cut off",
)  # fmt: skip


def rates(findings: Findings) -> list[dict[str, Any]]:
    """Returns a table for each eval that has rates: a row for each arm with its score, interval and every rate."""
    tables = []
    for name in findings.results.evals():
        found = {arm: evals[name] for arm, evals in findings.arms.items() if name in evals}
        # The rates of reasons have a table of their own.
        given = {f"gives {reason}" for rates in findings.reasons.get(name, {}).values() for reason in rates}
        named = dict.fromkeys(rate for each in found.values() for rate in each.rates)
        columns = [rate for rate in named if rate not in given]
        if not columns:
            continue
        rows = [
            {
                "arm": arm,
                "score": _share(each.summary.mean, each.interval),
                "act": "" if each.act is None else _share(*each.act),
                "items": each.summary.n_items,
                "parsed": "" if each.parse_rate is None else _rate(each.parse_rate),
                "rates": [_rate(each.rates.get(rate, math.nan)) for rate in columns],
            }
            for arm, each in found.items()
        ]
        shown = {field: any(row[field] for row in rows) for field in ("parsed", "act")}
        tables.append({"eval": name, "columns": columns, "rows": rows, **shown})
    return tables


def _share(mean: float, interval: Interval) -> str:
    return f"{points(mean)} [{points(interval.low)}, {points(interval.high)}]"


def _rate(value: float) -> str:
    return f"{value:.2f}".replace("-", "\u2212") if math.isfinite(value) else ""


def transcripts(findings: Findings) -> dict[str, Any]:
    """Returns for each arm the evals that have transcripts: those to show, the number of all, and links to the files.

    Those shown are spread evenly over the items, so that they come from all parts of a grid. "logs" says whether there
    are logs for `inspect view`.
    """
    results = findings.results
    arms = [
        (arm, [_shown(name, every, results.files.get(arm, {}).get(name, ())) for name, every in evals.items() if every])
        for arm, evals in results.samples.items()
        if any(evals.values())
    ]
    every = [files for evals in results.files.values() for each in evals.values() for files in each]
    return {"arms": arms, "files": bool(every), "logs": any("log" in files for files in every)}


def _shown(name: str, every: Sequence[Mapping[str, Any]], files: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    count = min(SAMPLES_PER_EVAL, len(every))
    chosen = [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)]
    links = [
        {"seed": each["seed"], "samples": quote(each["samples"]), "log": quote(each.get("log", ""))} for each in files
    ]
    return {"eval": name, "shown": [_sample(sample) for sample in chosen], "total": len(every), "files": links}


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    prompt = sample["prompt"]
    messages = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt
    turns = [(message.get("role", ""), message.get("content", "")) for message in messages]
    if sample.get("thoughts"):
        turns = [*turns, ("thoughts", sample["thoughts"])]
    outcome = [(name, _value(sample[name])) for name in _OUTCOMES if sample.get(name) is not None]
    if "parsed" in sample and sample["parsed"] is None:
        outcome = [("not parsed", ""), *outcome]
    return {
        "id": str(sample.get("id", "")),
        "turns": [(role, _clip(str(text))) for role, text in turns],
        "reply": _clip(str(sample["reply"])),
        "votes": [_clip(vote) for vote in votes(sample.get("judge") or ())],
        "outcome": " · ".join(f"{name} {value}".strip() for name, value in outcome),
    }


def votes(replies: Any) -> list[str]:
    """Returns the texts of a judge's votes; a kind with several questions to the judge keeps a list for each."""
    return [replies] if isinstance(replies, str) else [vote for each in replies for vote in votes(each)]


def _value(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _clip(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS].rstrip() + " … (the file has the rest)"
