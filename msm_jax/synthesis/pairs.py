"""Generates preference pairs from a spec: a conversation that a judge passes, and a worse answer to its last message.

The worse answer, the rival, falls short of the spec in one way of `prompts/rivals.md`. The judge compares the two
answers in both orders, and a pair is kept if it finds the conversation's own answer better in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msm_jax.foundation import storage
from msm_jax.synthesis import parsing, prompts
from msm_jax.synthesis.asking import Dropped, Question
from msm_jax.synthesis.chat_config import PairsConfig
from msm_jax.synthesis.conversations import Conversation, Opening, Speaker, Spoken
from msm_jax.synthesis.parsing import Unusable
from msm_jax.synthesis.rounds import Product, Rounds, line

PAIRS = "pairs.jsonl"
_STAGES = (
    "conversation_domains", "questions", "follow_up", "response", "judge", "rival", "compare",
    "answer_styles", "question_styles", "criteria", "rivals",
)  # fmt: skip
# In which order the judge sees the answers: whether the better one comes first.
_ORDERS = (True, False)


async def _row(speaker: Speaker, opening: Opening) -> dict[str, Any]:
    """Returns a pair as a row, {"messages", "chosen", "rejected", "meta"}, as `data.pairs` reads it.

    An answer with thinking is a list of one message, and one without is its text.

    Raises:
        Dropped: a reply cannot be used, the judge does not pass the conversation (reason "judged"), the answers are the
            same ("same_answers"), or the judge does not find the better answer better in both orders ("order_decides"),
            or in none ("rival_preferred").
    """
    talk, verdict = await speaker.judged(opening)
    name, rival = await _rival(speaker, talk)
    better = talk.answers[-1]
    both = f"{better.shown}\n\nRival: {rival.shown}"
    if better.text == rival.text:
        raise Dropped("rival", opening.id, "same_answers", "the writer gave the same answer again", both)
    found = [await _is_better(speaker, talk, rival, first) for first in _ORDERS]
    if not all(found):
        reason, what = ("order_decides", "in one order") if any(found) else ("rival_preferred", "in both orders")
        raise Dropped("compare", opening.id, reason, f"the judge finds the rival ({name}) better {what}", both)
    key = rival.source.key
    meta = {
        **speaker.meta(talk, verdict), "rival": name, "rival_template_sha256": prompts.load("rival").sha256,
        "rival_prompt_sha256": key.prompt_sha256, "rival_attempt": key.attempt,
    }  # fmt: skip
    return {"messages": talk.messages[:-1], "chosen": better.answer, "rejected": rival.answer, "meta": meta}


async def _rival(speaker: Speaker, talk: Conversation) -> tuple[str, Spoken]:
    """Returns the name of a way of falling short, which the place decides, and an answer that falls short so."""
    config, opening = speaker.config, talk.opening
    assert isinstance(config, PairsConfig)
    name = config.rivals[(opening.domain.number + opening.number) % len(config.rivals)]
    prompt = speaker.prompt(
        "rival",
        opening.domain,
        shortfall=name,
        shortfall_note=prompts.entries("rivals")[name],
        conversation=talk.before,
        question=talk.asked[-1],
        better=talk.answers[-1].text,
        length=speaker.length,
        reasoning_note=speaker.reasoning_note,
    )
    return name, await speaker.spoken("rival", f"{opening.id}.rival", prompt)


async def _is_better(speaker: Speaker, talk: Conversation, rival: Spoken, first: bool) -> bool:
    """Returns whether the judge finds the conversation's answer better, which it sees first or second."""
    answers = (talk.answers[-1].shown, rival.shown)
    one, two = answers if first else answers[::-1]
    prompt = speaker.prompt(
        "compare",
        talk.opening.domain,
        criteria=speaker.criteria_text,
        conversation=talk.before,
        question=talk.asked[-1],
        first=one,
        second=two,
    )
    item = f"{talk.opening.id}.{'first' if first else 'second'}"
    tokens = speaker.config.judging.tokens
    question = Question("compare", item, prompt, tokens, role=speaker.judge, temperature=0.0)
    return ((await speaker.asker.ask(question, _preferred)).value == "first") == first


def _preferred(reply: str) -> str:
    """Returns "first" or "second" from a judge's reply."""
    found = parsing.tagged(reply, "verdict").lower()
    if found not in ("first", "second"):
        raise Unusable("no_verdict", f"the verdict is {found[:60]!r}, neither first nor second")
    return found


async def _write(made: Rounds, directory: Path) -> tuple[dict[str, int], Sequence[Dropped]]:
    count = 0
    with storage.new_file(directory / PAIRS) as file:
        async for row in made.rows():
            file.write(line(row))
            count += 1
    return {PAIRS: count}, ()


# What `rounds.run` makes: `pairs.jsonl`, beside the files of all products.
PRODUCT = Product("pairs", (PAIRS,), _STAGES, _row, _write)
