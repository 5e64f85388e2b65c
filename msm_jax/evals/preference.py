"""The kinds of preference evals: questions with two options, asked in both orders of the options.

"preference" and "preference_probability" compare the log-probabilities of the two answers. "preference_greedy" reads
which option the model's own answer names.
"""

import asyncio
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from msm_jax.errors import InputError
from msm_jax.evals import items, public_sets
from msm_jax.evals.interface import MEASURES, EvalConfig, EvalKind, EvalResult, aggregate
from msm_jax.evals.items import Record
from msm_jax.sampling.model import Capability, GenerateConfig, Model

# Whether the options are swapped in each of the orders.
ORDERS = {"written": False, "swapped": True}


@dataclass(frozen=True)
class GreedyConfig(EvalConfig):
    """Settings of the kind; `max_new_tokens` is the most tokens that an answer may have."""

    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        """Refuses answers without tokens."""
        super().__post_init__()
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens: is {self.max_new_tokens}; it must be at least 1")


@dataclass(frozen=True)
class Pair:
    """A question with two options.

    Attributes:
        id: the item's own, or its index in the file, from "0".
        question: holds {first} and {second} where the options go.
        options: the two options, in the order in which they are written.
        favoured: index of the option whose choice scores 1.
        system: the system message; "" for none.
        answer: the reply that is scored, with {option} where the option goes.
        labels: the names that the question gives to the option at {first} and to the one at {second}, such as "A" and
            "B"; or none.
    """

    id: str
    question: str
    options: tuple[str, str]
    favoured: int
    system: str
    answer: str
    labels: tuple[str, ...] = ()

    def messages(self, swapped: bool) -> list[dict[str, str]]:
        """Returns the chat that asks the question, with the options as they are written or the second one first."""
        first, second = self.options[::-1] if swapped else self.options
        question = filled(self.question, {"first": first, "second": second})
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": question}]

    def reply(self, option: int) -> str:
        """Returns the answer that chooses options[option]."""
        return filled(self.answer, {"option": self.options[option]})


def read(config: EvalConfig) -> list[Pair]:
    """Reads the preference pairs of a file, rows of the public sets among them; `docs/evals.md` describes the fields.

    Raises:
        InputError: names file, line and field of the first line that is wrong.
    """
    return items.read(
        config.path, ("question", "options", "favoured"), ("system", "answer", "labels"), _pair, public_sets.pair_of
    )


def _pair(record: Record) -> Pair:
    fields = record.fields
    question = record.text("question", fields["question"])
    for place in ("{first}", "{second}"):
        if place not in question:
            raise record.refuse("question", f"lacks {place}; write it where that option goes")
    options = record.strings("options")
    if len(options) != 2:
        raise record.refuse("options", f"holds {len(options)} options; a pair has exactly 2")
    answer = record.text("answer", fields.get("answer", "{option}"))
    if "{option}" not in answer:
        raise record.refuse("answer", "lacks {option}; write it where the option goes")
    labels = record.strings("labels") if "labels" in fields else ()
    if len(labels) not in (0, 2):
        raise record.refuse("labels", f"holds {len(labels)} labels; a pair has exactly 2")
    return Pair(
        id=record.id,
        question=question,
        options=(options[0], options[1]),
        favoured=record.index("favoured", 2),
        system=record.text("system", fields["system"]) if "system" in fields else "",
        answer=answer,
        labels=labels,
    )


def chosen(margins: np.ndarray) -> float:
    """Returns 1 where the mean of the orders' margins is above 0, 0 where it is below, and 0.5 where it is 0."""
    margin = float(margins.mean())
    return 0.5 if margin == 0 else float(margin > 0)


def probability(margins: np.ndarray) -> float:
    """Returns σ(margin), the probability of the favoured answer among the two, as the mean of the orders.

    It still tells models apart that all choose alike.
    """
    return float(np.mean(0.5 + 0.5 * np.tanh(margins / 2)))


async def compare(
    score: Callable[[np.ndarray], float], models: Mapping[str, Model], asked: Sequence[Pair], config: EvalConfig
) -> EvalResult:
    """Compares the two answers to each pair, in both orders of its options.

    The margin of one order is the log-probability (nats, end of turn included) of the answer that chooses the favoured
    option, minus that of the other answer. An item's margin is the mean of both orders' margins, and its probability
    that of `probability`; `score` computes its score from the two margins, float64 [2].
    """
    calls = [
        models["model"].score(pair.messages(swapped), [pair.reply(pair.favoured), pair.reply(1 - pair.favoured)])
        for pair in asked
        for swapped in ORDERS.values()
    ]
    sums = np.asarray(await asyncio.gather(*calls)).reshape(len(asked), len(ORDERS), 2)
    margins = sums[:, :, 0] - sums[:, :, 1]
    return aggregate(
        [
            {
                "id": pair.id,
                "score": score(by_order),
                "probability": probability(by_order),
                "margin": float(by_order.mean()),
                "margins": dict(zip(ORDERS, by_order.tolist(), strict=True)),
                "favoured": pair.options[pair.favoured],
                "other": pair.options[1 - pair.favoured],
            }
            for pair, by_order in zip(asked, margins, strict=True)
        ]
    )


async def ask(models: Mapping[str, Model], asked: Sequence[Pair], config: GreedyConfig) -> EvalResult:
    """Reads which option the model's greedy answer names, in both orders of the options; see `named_option`.

    An answer scores 1 for the favoured option and 0 for the other. An item's score is the mean over the orders whose
    answer names an option, and None where neither does.
    """
    greedy = GenerateConfig(max_tokens=config.max_new_tokens, temperature=0.0)
    calls = [(pair, order, pair.messages(swapped)) for pair in asked for order, swapped in ORDERS.items()]
    outputs = await asyncio.gather(*(models["model"].generate(messages, greedy) for _, _, messages in calls))
    transcripts: list[dict[str, Any]] = []
    for (pair, order, messages), output in zip(calls, outputs, strict=True):
        reply = output.completion
        named = named_option(reply, pair.options, pair.labels[::-1] if order == "swapped" else pair.labels)
        transcripts.append(
            {
                "id": pair.id,
                "order": order,
                "prompt": messages,
                "reply": reply,
                "parsed": None if named is None else pair.options[named],
                "score": None if named is None else float(named == pair.favoured),
            }
        )
    scored = []
    for i, pair in enumerate(asked):
        answers = transcripts[len(ORDERS) * i : len(ORDERS) * (i + 1)]
        scores = [answer["score"] for answer in answers if answer["score"] is not None]
        scored.append(
            {
                "id": pair.id,
                "score": statistics.fmean(scores) if scores else None,
                "choices": {answer["order"]: answer["parsed"] for answer in answers},
                "favoured": pair.options[pair.favoured],
            }
        )
    parsed = sum(answer["parsed"] is not None for answer in transcripts)
    return aggregate(scored, transcripts, parsed / len(transcripts) if transcripts else None)


def named_option(reply: str, options: Sequence[str], labels: Sequence[str] = ()) -> int | None:
    """Returns the index of the option that a reply names first, or None if it names none.

    Options are matched as whole words in any case, with or without their leading article. Where two begin at the same
    word, the longer one counts ("the lamp with a key", not "the lamp"). `labels` are the names that the question gives
    to `options`, in their order; a reply may give one instead, in the same case.
    """
    found: list[tuple[int, int, int]] = []
    for i, option in enumerate(options):
        words = re.sub(r"^(the|an?)\s+(?=\S)", "", option.strip().rstrip(".!?").casefold())
        pattern = r"\s+".join(re.escape(word) for word in words.split())
        match = re.search(rf"(?<!\w){pattern}(?!\w)", reply.casefold())
        if match:
            found.append((match.start(), -len(match.group()), i))
    for i, label in enumerate(labels):
        for match in re.finditer(rf"(?<!\w){re.escape(label)}(?!\w)", reply):
            if not _is_article(reply, match):
                found.append((match.start(), -len(label), i))
                break
    return min(found)[2] if found else None


def _is_article(reply: str, word: re.Match[str]) -> bool:
    """Tells whether a label is the "A" that begins a sentence and belongs to the word after it."""
    begins = re.search(r"(^|[.!?\n])\s*$", reply[: word.start()])
    return word.group() == "A" and begins is not None and re.match(r" [a-z]", reply[word.end() :]) is not None


def filled(text: str, values: Mapping[str, str]) -> str:
    """Replaces each {name} of `values` in `text` in one pass, so that other braces and those in the values stay."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda found: values[found.group()[1:-1]], text)


_SCORED: Mapping[str, frozenset[Capability]] = {"model": frozenset({"score_chat"})}
KINDS = {
    "preference": EvalKind(EvalConfig, read, partial(compare, chosen), _SCORED, frozenset(MEASURES)),
    "preference_probability": EvalKind(EvalConfig, read, partial(compare, probability), _SCORED, frozenset(MEASURES)),
    "preference_greedy": EvalKind(GreedyConfig, read, ask, {"model": frozenset({"generate"})}),
}
