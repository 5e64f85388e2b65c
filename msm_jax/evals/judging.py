"""Judges: models that grade replies. Votes are counted, and what is no verdict is never scored."""

import asyncio
import collections
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_jax.errors import InputError, WorkError
from msm_jax.evals.interface import EvalConfig, mean_of
from msm_jax.sampling.model import GenerateConfig, Model, ModelOutput

# How replies begin that refuse; apostrophes are straightened before.
_REFUSAL = re.compile(
    r"^\W*(i'm sorry|i am sorry|sorry|i apologi[sz]e|i can't|i cannot|i can not|i won't|i will not"
    r"|i(?:'m| am) (not able|unable)|i must decline|i have to decline|i decline|as an ai)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class JudgeConfig:
    """A judge, pinned by name and version, because grades of two versions do not compare.

    Attributes:
        model: as `synthesis.config.WriterConfig` names models: a name of Inspect's such as "anthropic/MODEL",
            "checkpoint:PATH", or "python:MODULE:FUNCTION".
        version: the date, revision or hash that tells this version of the model from others. It is part of what a
            result depends on.
        votes: how often each question is asked; the majority counts, and the median of numbers.
        temperature: of the votes.
        max_tokens: the most tokens of a vote.
        least_agreement: the share of labelled transcripts on which the judge must agree before it grades; 0 reports
            the agreement alone.
        concurrency: the most calls in flight.
        base_url: of a server that the model's provider does not find by itself.
        options: fields of Inspect's GenerateConfig for every call.
        arguments: further arguments of Inspect's get_model; for a function, its arguments.
    """

    model: str
    version: str
    votes: int = 1
    temperature: float = 0.0
    max_tokens: int = 1024
    least_agreement: float = 0.0
    concurrency: int = 64
    base_url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a judge that is not pinned, and numbers that make no sense."""
        if not self.model.strip():
            raise InputError("model: is empty; name a model, as in openai/MODEL")
        if not self.version.strip():
            raise InputError("version: is empty; pin the judge by the date, revision or hash of the model")
        if "latest" in (self.version, *re.split(r"[-:@]", self.model)):
            raise InputError(f"model: {self.model!r} with the version {self.version!r} is not pinned; name a version")
        if self.votes < 1 or self.votes % 2 == 0:
            raise InputError(f"votes: is {self.votes}; it must be odd, so that a majority exists")
        if self.temperature < 0:
            raise InputError(f"temperature: is {self.temperature}; it must not be negative")
        if min(self.max_tokens, self.concurrency) < 1:
            raise InputError("max_tokens and concurrency: must be at least 1")
        if not 0 <= self.least_agreement <= 1:
            raise InputError(f"least_agreement: is {self.least_agreement}; it must lie between 0 and 1")

    @property
    def name(self) -> str:
        """The model with its version."""
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class JudgedConfig(EvalConfig):
    """Settings of the kinds whose replies a judge reads; one with other defaults repeats the field.

    Attributes:
        judge: reads each reply.
        samples: replies to each question, or transcripts of each cell.
        temperature: of the replies.
        max_tokens: the most tokens of a reply, its thoughts included.
    """

    judge: JudgeConfig | None = None
    samples: int = 1
    temperature: float = 0.7
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        """Refuses numbers that make no sense."""
        super().__post_init__()
        if min(self.samples, self.max_tokens) < 1:
            raise InputError("samples and max_tokens: must be at least 1")
        if self.temperature < 0:
            raise InputError(f"temperature: is {self.temperature}; it must not be negative")


@dataclass(frozen=True)
class Verdict:
    """What a judge said to one question.

    Attributes:
        value: the majority of the votes (of numbers the median, of sets what more than half of them hold); None where
            no vote could be read, or two values have equally many votes.
        votes: each vote, None for one that could not be read.
        refused: how many votes were refusals.
        unparsable: how many other votes could not be read.
        replies: the text of each vote.
    """

    value: Any
    votes: tuple[Any, ...]
    refused: int
    unparsable: int
    replies: tuple[str, ...]


async def ask(judge: Model, question: str, parse: Callable[[str], Any], config: JudgeConfig | None) -> Verdict:
    """Asks a judge one question, as often as it has votes.

    Args:
        judge: the model that grades.
        question: the whole prompt.
        parse: reads a reply; returns None for one that holds no verdict.
        config: how often and at what temperature; None for one vote at temperature 0.

    Raises:
        WorkError: the judge failed for good.
    """
    votes, temperature, most = (config.votes, config.temperature, config.max_tokens) if config else (1, 0.0, 1024)
    messages = [{"role": "user", "content": question}]
    asked = [GenerateConfig(max_tokens=most, temperature=temperature, seed=seed) for seed in range(votes)]
    outputs = await asyncio.gather(*(judge.generate(messages, each) for each in asked))
    read = [
        None if output.choices[0].stop_reason == "content_filter" else parse(output.completion) for output in outputs
    ]
    refused = sum(value is None and is_refusal(output) for value, output in zip(read, outputs, strict=True))
    unparsable = read.count(None) - refused
    replies = tuple(output.completion for output in outputs)
    return Verdict(_majority([value for value in read if value is not None]), tuple(read), refused, unparsable, replies)


def _majority(votes: Sequence[Any]) -> Any:
    if not votes:
        return None
    if isinstance(votes[0], frozenset):
        held = collections.Counter(each for vote in votes for each in vote)
        is_tied = any(2 * count == len(votes) for count in held.values())
        return None if is_tied else frozenset(each for each, count in held.items() if 2 * count > len(votes))
    if not isinstance(votes[0], (bool, str)):
        return statistics.median(votes)
    (first, count), *others = collections.Counter(votes).most_common()
    return None if others and others[0][1] == count else first


def said(output: ModelOutput) -> dict[str, Any]:
    """Returns what a transcript keeps of an output: "reply", "thoughts" (of a model that thinks apart from its reply)
    and "stop_reason"."""
    choice = output.choices[0]
    thoughts = str(choice.message.get("reasoning_content", ""))
    return {"reply": output.completion, "thoughts": thoughts, "stop_reason": choice.stop_reason}


def read_by_judge(transcript: Mapping[str, Any]) -> str:
    """Returns the reply of a transcript, after the thoughts of a model that thinks apart from it."""
    thoughts, reply = transcript.get("thoughts", ""), str(transcript["reply"])
    return f"<thoughts>\n{thoughts}\n</thoughts>\n{reply}" if thoughts else reply


def is_refusal(output: ModelOutput) -> bool:
    """Returns whether a reply declines: the provider held it back, or it begins as refusals do."""
    return output.choices[0].stop_reason == "content_filter" or refuses(output.completion)


def refuses(text: str) -> bool:
    """Returns whether a text begins as refusals do: "I cannot", "I'm sorry" and the like."""
    return bool(_REFUSAL.match(text.strip().replace("’", "'")))


def yes_or_no(reply: str) -> bool | None:
    """Returns the verdict of a reply whose last line is "VERDICT: yes" or "VERDICT: no", in any case; None for another.

    A reply that states both is none.
    """
    found = set(re.findall(r"\bverdict\W{1,4}(yes|no)\b", reply, re.IGNORECASE | re.MULTILINE))
    values = {each.casefold() == "yes" for each in found}
    return values.pop() if len(values) == 1 else None


def number(low: int, high: int) -> Callable[[str], int | None]:
    """Returns a parser of "VERDICT: n" with a whole number from `low` to `high`; another number is no verdict."""

    def parse(reply: str) -> int | None:
        found = {int(each) for each in re.findall(r"\bverdict\W{1,4}(\d+)(?![\d.])", reply, re.IGNORECASE)}
        return found.pop() if len(found) == 1 and low <= min(found) and max(found) <= high else None

    return parse


def rates(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """Returns the shares of questions with a vote that was refused, with one that could not be read, and without a
    verdict."""
    return {
        "judge refused": mean_of(verdict.refused > 0 for verdict in verdicts),
        "judge unparsable": mean_of(verdict.unparsable > 0 for verdict in verdicts),
        "without verdict": mean_of(verdict.value is None for verdict in verdicts),
    }


def agreement(verdicts: Sequence[Verdict], labels: Sequence[Any], config: JudgeConfig | None) -> float:
    """Returns the share of labelled transcripts on which a judge gives the label; no verdict is a disagreement.

    Raises:
        WorkError: the share is below `least_agreement`.
    """
    share = statistics.fmean(verdict.value == label for verdict, label in zip(verdicts, labels, strict=True))
    if config and share < config.least_agreement:
        raise WorkError(
            f"judge {config.name}: agrees with {share:.0%} of {len(labels)} labelled transcripts, less than "
            f"{config.least_agreement:.0%}; choose another judge, or read its replies and lower least_agreement"
        )
    return share
