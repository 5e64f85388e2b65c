"""Logs of Inspect, made of the transcripts of evals, so that `inspect view` opens every one of them.

A log is a file ".eval" in Inspect's own format, written by Inspect. Where it is not installed there are no logs; the
report can be rendered again in an environment that has it.
"""

from __future__ import annotations

import datetime
import importlib.util
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.analysis.evidence import votes

_LACKING = "no log for `inspect view`: Inspect is not installed; run {} again where it is (make inspect)"
MISSING, MISSING_FOR_EVALUATE = _LACKING.format("msm_jax.report"), _LACKING.format("the command")
_SCORE = "msm_jax"


def can_write() -> bool:
    """Returns whether Inspect is installed."""
    return importlib.util.find_spec("inspect_ai") is not None


def write(
    path: Path, task: str, model: str, digest: str, config: Mapping[str, Any], result: Mapping[str, Any], seconds: float
) -> None:
    """Writes the log of one eval of one model.

    Args:
        path: the file; an earlier one is replaced.
        task: the name of the eval.
        model: the name of the model under test.
        digest: a hash that identifies the result.
        config: the settings of the eval, which the log shows as the arguments of its task.
        result: an `EvalResult` as JSON, with transcripts.
        seconds: when the result was made, in seconds since the epoch.
    """
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        write_eval_log,
    )

    transcripts = result["transcripts"]
    # The transcripts of one item are its epochs: samples, orders of the options, or conditions.
    seen: Counter[str] = Counter()
    samples = []
    for number, transcript in enumerate(transcripts):
        item = str(transcript.get("id", number))
        seen[item] += 1
        samples.append(_sample(transcript, item, seen[item], model))
    figures = {"mean": result["mean"], "parsed": result["parse_rate"], **result.get("rates", {})}
    metrics = {name: EvalMetric(name=name, value=value) for name, value in figures.items() if value is not None}
    scored = sum(transcript.get("score") is not None for transcript in transcripts)
    score = EvalScore(
        name=_SCORE,
        scorer=_SCORE,
        scored_samples=scored,
        unscored_samples=len(transcripts) - scored,
        metrics=metrics,
    )
    log = EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=digest,
            run_id=digest,
            task_id=digest,
            created=datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds"),
            task=task,
            task_args=dict(config),
            dataset=EvalDataset(name=task, samples=len(seen), sample_ids=list(seen)),
            model=model,
            config=EvalConfig(epochs=max(seen.values())),
        ),
        results=EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=[score]),
        samples=samples,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its name ends in ".eval" too, so that Inspect takes the format from it.
    unfinished = path.with_name(f".unfinished-{path.name}")
    write_eval_log(log, str(unfinished))
    unfinished.replace(path)


def _sample(transcript: Mapping[str, Any], item: str, epoch: int, model: str) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ContentReasoning,
        ContentText,
        ModelOutput,
    )
    from inspect_ai.scorer import Score

    made = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    prompt = transcript["prompt"]
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    chat = [made[message["role"]](content=message["content"]) for message in asked]
    reply = str(transcript["reply"])
    thoughts = str(transcript.get("thoughts") or "")
    content = [ContentReasoning(reasoning=thoughts), ContentText(text=reply)] if thoughts else reply
    further = {name: value for name, value in transcript.items() if name not in ("prompt", "reply", "thoughts")}
    said = "\n\n".join(votes(transcript.get("judge") or ()))
    value = transcript.get("score")
    answer = transcript.get("parsed")
    score = (
        Score.unscored(explanation=said or "no answer could be parsed", metadata=further)
        if value is None
        else Score(value=value, answer=None if answer is None else str(answer), explanation=said, metadata=further)
    )
    return EvalSample(
        id=item,
        epoch=epoch,
        input=chat,
        target="",
        messages=[*chat, ChatMessageAssistant(content=content)],
        output=ModelOutput.from_content(model, reply),
        scores={_SCORE: score},
        metadata={"cell": transcript["cell"]} if "cell" in transcript else {},
    )

