"""The kind "knowledge_recall": what a model says when it is asked openly about what a spec asserts.

A judge says which assertions a reply states. Without a judge nothing is scored, since no rule can tell the same thought
in other words; `knowledge` compares continuations and needs none.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_jax.evals import items, judging
from msm_jax.evals.interface import EvalKind, EvalResult, aggregate, mean_of
from msm_jax.evals.items import Record
from msm_jax.evals.judging import JudgedConfig, Verdict
from msm_jax.evals.preference import filled
from msm_jax.sampling.model import GenerateConfig, Model

_STATES = (
    "An assistant was asked an open question. Decide which of the numbered assertions its reply states.\n\n<question>\n"
    "{question}\n</question>\n\n<reply>\n{reply}\n</reply>\n\n<assertions>\n{assertions}\n</assertions>\n\nA reply "
    "states an assertion if a reader who knew nothing else would learn it from the reply, in whatever words. It does "
    "not if it only touches the same subject, says something weaker, or says the opposite. Think briefly. Then end "
    'with one line, "STATED: " and the numbers with commas between them, or "STATED: none".'
)


@dataclass(frozen=True)
class RecallConfig(JudgedConfig):
    """Settings of the kind.

    Attributes:
        max_tokens: the most tokens of a reply.
    """

    max_tokens: int = 512


@dataclass(frozen=True)
class RecallItem:
    """An open question, what a reply to it should state, and the system message; "" for none."""

    id: str
    question: str
    assertions: tuple[str, ...]
    system: str


def read(config: RecallConfig) -> list[RecallItem]:
    """Reads the questions of a file; `docs/evals.md` describes the fields.

    Raises:
        InputError: names file, line and field of the first line that is wrong.
    """
    return items.read(config.path, ("question", "assertions"), ("system",), _item)


def _item(record: Record) -> RecallItem:
    assertions = record.strings("assertions")
    if not assertions:
        raise record.refuse("assertions", "is empty; name at least one")
    system = record.text("system", record.fields["system"]) if "system" in record.fields else ""
    return RecallItem(record.id, record.text("question", record.fields["question"]), assertions, system)


async def run(models: Mapping[str, Model], facts: Sequence[RecallItem], config: RecallConfig) -> EvalResult:
    """Samples replies to each question, and lets the judge say which assertions they state.

    A question scores the share of its assertions that a reply states, as a mean over the replies with a verdict; None
    where no reply has one. Its "stated" hold the share of these replies for each assertion. `rates` hold the share of
    replies that state all, the share that state none, and the refusals.
    """

    async def judged(fact: RecallItem, number: int) -> tuple[dict[str, Any], Verdict]:
        system = [{"role": "system", "content": fact.system}] if fact.system else []
        messages = [*system, {"role": "user", "content": fact.question}]
        drawing = GenerateConfig(max_tokens=config.max_tokens, temperature=config.temperature, seed=number)
        output = await models["model"].generate(messages, drawing)
        numbered = "\n".join(f"{place}. {text}" for place, text in enumerate(fact.assertions, 1))
        values = {"question": fact.question, "reply": output.completion, "assertions": numbered}
        parse = stated(len(fact.assertions))
        verdict = await judging.ask(models["judge"], filled(_STATES, values), parse, config.judge)
        share = None if verdict.value is None else len(verdict.value) / len(fact.assertions)
        transcript = {
            "id": fact.id,
            "sample": number,
            "prompt": messages,
            **judging.said(output),
            "judge": verdict.replies,
            "stated": None if verdict.value is None else sorted(verdict.value),
            "score": share,
            "refuses": judging.is_refusal(output),
        }
        return transcript, verdict

    found = await asyncio.gather(*(judged(fact, number) for fact in facts for number in range(config.samples)))
    transcripts = [transcript for transcript, _ in found]
    scored = []
    for fact in facts:
        own = [each for each in transcripts if each["id"] == fact.id and each["stated"] is not None]
        of_each = [mean_of(place in each["stated"] for each in own) for place in range(1, len(fact.assertions) + 1)]
        scored.append({"id": fact.id, "score": mean_of(each["score"] for each in own), "stated": of_each})
    read_ones = [each["score"] for each in transcripts if each["score"] is not None]
    rates = {
        "states all": mean_of(score == 1 for score in read_ones),
        "states none": mean_of(score == 0 for score in read_ones),
        "refuses": mean_of(each["refuses"] for each in transcripts),
        "cut off": mean_of(each["stop_reason"] == "max_tokens" for each in transcripts),
        **judging.rates([verdict for _, verdict in found]),
    }
    return aggregate(scored, transcripts, mean_of(each["score"] is not None for each in transcripts), rates)


def stated(count: int) -> Callable[[str], frozenset[int] | None]:
    """Returns a parser of the line "STATED: …" for assertions 1 to `count`; another number is no verdict, nor are two
    lines that differ."""

    def parse(reply: str) -> frozenset[int] | None:
        lines = re.findall(r"^\W*stated\W*:(.*)$", reply, re.IGNORECASE | re.MULTILINE)
        found = {frozenset(re.findall(r"\w+", line.casefold())) for line in lines}
        if len(found) != 1:
            return None
        (words,) = found
        if words == {"none"}:
            return frozenset()
        numbers = frozenset(int(word) for word in words if word.isdecimal())
        is_whole = len(numbers) == len(words) > 0 and min(numbers) >= 1 and max(numbers) <= count
        return numbers if is_whole else None

    return parse


KIND = EvalKind(RecallConfig, read, run, {"model": frozenset({"generate"}), "judge": frozenset({"generate"})})
