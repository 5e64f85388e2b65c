"""A row of a corpus as the texts that gates read, and what a gate reports of one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Role = Literal["document", "system", "user", "assistant", "thinking"]
_THINKING = re.compile(r"^\s*<think>(.*?)</think>\s*", re.DOTALL)
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_ANSWERS = ("chosen", "rejected")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n+")


class Part(NamedTuple):
    """One text of a row: a document, or a message or the thinking in it."""

    role: Role
    text: str


class Finding(NamedTuple):
    """What a gate found in a row: where in which of its parts, and one phrase that says what."""

    begin: int
    end: int
    note: str
    part: int = 0


@dataclass(frozen=True)
class Row:
    """A row with its parts in order; `id` is its own id or its number from 0, and `meta` its provenance."""

    id: str
    parts: tuple[Part, ...]
    meta: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Returns the document, or the contents of the messages after each other."""
        return "\n\n".join(part.text for part in self.parts if part.role != "thinking")

    @property
    def question(self) -> str:
        """Returns the first message of the user, or "" for a document."""
        return next((part.text for part in self.parts if part.role == "user"), "")


def row_of(record: Mapping[str, Any], number: int) -> Row:
    """Returns a row of `{"text", "meta"?, …}` or `{"messages", "meta"?, …}`; `number` names it if it has no id.

    The two answers of a pair, "chosen" and "rejected", are further replies to its messages.
    """
    meta = {key: value for key, value in record.items() if key not in ("text", "messages", "meta", *_ANSWERS)}
    meta |= record.get("meta") or {}
    name = str(meta.get("id", number))
    if "text" in record:
        return Row(name, (Part("document", record["text"]),), meta)
    parts: list[Part] = []
    answers = [record[key] for key in _ANSWERS if key in record]
    said = [[{"role": "assistant", "content": each}] if isinstance(each, str) else each for each in answers]
    for message in itertools.chain(record["messages"], *said):
        text, role = message.get("content") or "", message["role"]
        if isinstance(text, list):
            text = "".join(piece.get("text", "") for piece in text)
        if role == "assistant":
            inline = _THINKING.match(text)
            thinking = next(
                (message[key] for key in ("reasoning_content", "reasoning", "thinking") if message.get(key)), ""
            )
            if inline:
                thinking, text = inline[1], text[inline.end() :]
            if thinking:
                parts.append(Part("thinking", thinking))
        parts.append(Part("system" if role in ("system", "developer", "tool") else role, text))
    return Row(name, tuple(parts), meta)


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def sentences(text: str) -> list[str]:
    """Returns the sentences of a text; a line break ends one."""
    return [piece.strip() for piece in _SENTENCE.split(text) if piece and piece.strip()]


def prose(text: str) -> str:
    """Returns a text of the same length in which code (fenced, or between back quotes) is blank."""
    blank = _FENCED.sub(lambda match: " " * len(match[0]), text)
    return _INLINE.sub(lambda match: " " * len(match[0]), blank)
