"""Generates demonstrations from a spec: conversations that a judge passes, with and without thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.foundation import storage
from msm_jax.synthesis import identity
from msm_jax.synthesis.asking import Dropped
from msm_jax.synthesis.chat_config import DemonstrationsConfig
from msm_jax.synthesis.conversations import Opening, Speaker
from msm_jax.synthesis.rounds import Product, Rounds, line

WITH_THINKING = "demonstrations.jsonl"
WITHOUT_THINKING = "demonstrations_no_thinking.jsonl"
IDENTITY = "identity.jsonl"
_STAGES = (
    "conversation_domains", "questions", "follow_up", "response", "judge", "identity",
    "answer_styles", "question_styles", "criteria",
)  # fmt: skip


async def _row(speaker: Speaker, opening: Opening) -> dict[str, Any]:
    """Returns a conversation that the judge passes as a row, {"messages", "meta"}.

    Raises:
        Dropped: a reply cannot be used, or the judge does not pass the conversation (reason "judged").
    """
    talk, verdict = await speaker.judged(opening)
    return {"messages": talk.messages, "meta": speaker.meta(talk, verdict)}


async def _write(made: Rounds, directory: Path) -> tuple[dict[str, int], Sequence[Dropped]]:
    count = 0
    with (
        storage.new_file(directory / WITH_THINKING) as thinking,
        storage.new_file(directory / WITHOUT_THINKING) as plain,
    ):
        async for row in made.rows():
            thinking.write(line(row))
            plain.write(line(_without_thinking(row)))
            count += 1
    counts = {WITH_THINKING: count, WITHOUT_THINKING: count}
    config = made.speaker.config
    assert isinstance(config, DemonstrationsConfig)
    # A writer of which no conversation passed is not asked for more.
    exchanges, lost = await identity.rows(made.speaker.spec, config, made.speaker.asker) if count else ([], [])
    if config.identity.samples:
        counts[IDENTITY] = len(exchanges)
        storage.write_text(directory / IDENTITY, "".join(map(line, exchanges)))
    return counts, lost


def _without_thinking(row: Mapping[str, Any]) -> dict[str, Any]:
    messages = [{"role": each["role"], "content": each["content"]} for each in row["messages"]]
    return {**row, "messages": messages}


# What `rounds.run` makes: `demonstrations.jsonl`, with the thinking as "reasoning_content", the same without it, and
# `identity.jsonl`, beside the files of all products.
PRODUCT = Product("demonstrations", (WITH_THINKING, WITHOUT_THINKING), _STAGES, _row, _write)
