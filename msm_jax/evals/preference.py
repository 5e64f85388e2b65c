"""Preference pairs, each asked in both orders: by log-probability, or by the answer the model gives."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from msm_jax.evals.items import Pair
from msm_jax.evals.results import EvalResult, gathered
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Sampler

ORDERS = {"written": False, "swapped": True}


def by_log_probability(sampler: Sampler, pairs: Sequence[Pair], graded: bool = False) -> EvalResult:
    """Compares the two answers to each pair.

    The margin of one order is the log-probability (nats, end of turn included) of the answer that chooses the
    favoured option, less that of the other. An item's margin is the mean of both orders'; its score is 1 where
    that is above 0, 0 where it is below, and 0.5 where it is 0. With `graded`, the score is how probable the favoured
    answer is of the two, σ(margin), in the mean of the orders: it still tells models apart that all choose alike.
    """
    prompts: list[list[int]] = []
    replies: list[list[int]] = []
    for pair in pairs:
        for swapped in ORDERS.values():
            messages = pair.messages(swapped)
            for option in (pair.favoured, 1 - pair.favoured):
                prompt, reply = sampler.chat_turn(messages, pair.reply(option))
                prompts.append(prompt)
                replies.append(reply)
    sums = sampler.score(prompts, replies).reshape(len(pairs), len(ORDERS), 2)
    margins = sums[:, :, 0] - sums[:, :, 1]
    items = []
    for pair, by_order in zip(pairs, margins, strict=True):
        margin = float(by_order.mean())
        items.append(
            {
                "id": pair.id,
                "score": float(np.mean(0.5 + 0.5 * np.tanh(by_order / 2))) if graded else _sign_score(margin),
                "margin": margin,
                "margins": dict(zip(ORDERS, by_order.tolist(), strict=True)),
                "favoured": pair.options[pair.favoured],
                "other": pair.options[1 - pair.favoured],
            }
        )
    return gathered(items)


def by_answer(sampler: Sampler, pairs: Sequence[Pair], max_new_tokens: int) -> EvalResult:
    """Reads which option the model's greedy answer names; see `named_option`.

    An item's score is the mean over the orders whose answer names one: 1 for the favoured option, 0 for the other.
    Where neither does it is None.
    """
    asked = [(pair, order, pair.messages(swapped)) for pair in pairs for order, swapped in ORDERS.items()]
    prompts = [sampler.chat_prompt(messages) for _, _, messages in asked]
    greedy = SamplingConfig(max_new_tokens=max_new_tokens, temperature=0.0)
    transcripts: list[dict[str, Any]] = []
    for (pair, order, messages), reply in zip(asked, sampler.generate(prompts, greedy), strict=True):
        named = named_option(reply.text, pair.options, pair.labels[::-1] if order == "swapped" else pair.labels)
        transcripts.append(
            {
                "id": pair.id,
                "order": order,
                "prompt": messages,
                "reply": reply.text,
                "parsed": None if named is None else pair.options[named],
                "score": None if named is None else float(named == pair.favoured),
            }
        )
    items = []
    for i, pair in enumerate(pairs):
        answers = transcripts[len(ORDERS) * i : len(ORDERS) * (i + 1)]
        scores = [answer["score"] for answer in answers if answer["score"] is not None]
        choices = {answer["order"]: answer["parsed"] for answer in answers}
        score = statistics.fmean(scores) if scores else None
        items.append(
            {"id": pair.id, "score": score, "choices": choices, "favoured": pair.options[pair.favoured]}
        )
    read = sum(answer["parsed"] is not None for answer in transcripts)
    return gathered(items, transcripts, read / len(transcripts) if transcripts else None)


def named_option(reply: str, options: Sequence[str], labels: Sequence[str] = ()) -> int | None:
    """The option that a reply names first, as whole words in any case, with or without the option's article.

    Where two begin at the same word, the longer one is meant ("the lamp with a key", not "the lamp"). `labels` are the
    options' labels in the question, in the order of `options`; a reply may give one in its case instead. None where
    nothing is named.
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
    """Whether a label is the "A" that begins a sentence and belongs to the word after it."""
    begins = re.search(r"(^|[.!?\n])\s*$", reply[: word.start()])
    return word.group() == "A" and begins is not None and re.match(r" [a-z]", reply[word.end() :]) is not None


def _sign_score(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)
