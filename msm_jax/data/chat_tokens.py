"""From a rendered chat to ids, so that only special tokens that the template writes become special ids.

The text is split at the special tokens of the tokenizer (`<|user|>`, `<|im_end|>`, ...), which become their ids. The
text between two of them is encoded as one, unless a token would then reach from a prompt into the assistant's turn.
A message that spells a special token is ordinary text: before rendering, a character that occurs nowhere else (the
shield) is put inside each such spelling, and it is removed after the split.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

# Unicode guarantees that these are never characters, so hardly any text holds one of them.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


def encode(
    tokenizer: Tokenizer, text: str, shield: str, cuts: Sequence[int], loss: Sequence[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """Returns the ids of a rendered text, and for each id whether it carries loss.

    Args:
      tokenizer: encodes the text.
      text: a rendered chat, with special tokens as the template writes them.
      shield: the character inside special tokens that messages spell; it is removed.
      cuts: the ends of prompts, in characters; no token reaches across one.
      loss: the spans of characters that carry loss, in order; no token reaches across their ends.
    """
    begins = [begin for begin, _ in loss]

    def carries(at: int) -> bool:
        span = bisect.bisect_right(begins, at) - 1
        return span >= 0 and at < loss[span][1]

    borders = sorted({*cuts, *(at for span in loss for at in span)})
    ids: list[int] = []
    mask: list[bool] = []

    def add_text(start: int, stop: int) -> None:
        inside = borders[bisect.bisect_right(borders, start) : bisect.bisect_left(borders, stop)]
        starts = [start, *inside]
        parts = [text[a:b].replace(shield, "") for a, b in zip(starts, [*inside, stop], strict=True)]
        for at, run in zip(starts, tokenizer.encode_parts(parts, begins=start == 0), strict=True):
            ids.extend(run)
            mask.extend([carries(at)] * len(run))

    at = 0
    for marker in tokenizer.marker_pattern.finditer(text):
        if marker.start() > at:
            add_text(at, marker.start())
        piece = marker.group()
        ids.append(tokenizer.specials[piece if piece in tokenizer.specials else piece.strip()])
        mask.append(carries(marker.start()))
        at = marker.end()
    if len(text) > at:
        add_text(at, len(text))
    if tokenizer.chats_begin_with_bos and ids[:1] != tokenizer.begin_ids:
        ids = [*tokenizer.begin_ids, *ids]
        mask = [False, *mask]
    return ids, mask


def safe(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> tuple[str, list[dict[str, Any]], list[Any]]:
    """Returns a shield, and the messages and tools with it inside every special token that they spell."""
    said = [text for value in (*messages, *tools) for text in _strings(value)]
    shield = next((c for c in _NONCHARACTERS if not any(c in text for text in said)), None)
    if shield is None:
        raise InputError('field "messages" holds each of U+FDD0 to U+FDEF, which are not characters; remove one')
    markers = tuple(tokenizer.specials)
    return shield, [_shielded(m, markers, shield) for m in messages], [_shielded(t, markers, shield) for t in tools]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _shielded(value: Any, markers: tuple[str, ...], shield: str) -> Any:
    if isinstance(value, str):
        return _shielded_text(value, markers, shield)
    if isinstance(value, Mapping):
        return {_shielded(k, markers, shield): _shielded(item, markers, shield) for k, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shielded(item, markers, shield) for item in value]
    return value


def _shielded_text(content: str, markers: tuple[str, ...], shield: str) -> str:
    """Breaks every marker in `content`, and parts of one at its edges, which a template could complete."""
    edges, pattern, begins, ends, longest = _spellings(markers)
    if not any(character in content for character in edges):
        return content
    content = pattern.sub(lambda m: m.group()[0] + shield + m.group()[1:], content)
    tail = len(content.rstrip())
    begun = max((k for k in range(1, min(longest, tail + 1)) if content[tail - k : tail] in begins), default=0)
    if begun:
        content = content[: tail - begun + 1] + shield + content[tail - begun + 1 :]
    head = len(content) - len(content.lstrip())
    most = min(longest, len(content) - head + 1)
    ended = max((k for k in range(1, most) if content[head : head + k] in ends), default=0)
    if ended:
        content = content[: head + ended - 1] + shield + content[head + ended - 1 :]
    return content


@functools.lru_cache(maxsize=8)
def _spellings(
    markers: tuple[str, ...],
) -> tuple[frozenset[str], re.Pattern[str], frozenset[str], frozenset[str], int]:
    """Returns the markers' edge characters, a pattern, their proper prefixes and suffixes, and the longest length."""
    pattern = "|".join(re.escape(m) for m in sorted(markers, key=len, reverse=True)) or "(?!)"
    begins = frozenset(m[:k] for m in markers for k in range(1, len(m)))
    ends = frozenset(m[-k:] for m in markers for k in range(1, len(m)))
    edges = frozenset(character for m in markers for character in (m[0], m[-1]))
    return edges, re.compile(pattern), begins, ends, max(map(len, markers), default=1)
