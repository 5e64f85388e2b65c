"""The form of a text: where it ends, how long it is, what it repeats, and whether its characters are right."""

from __future__ import annotations

import collections
import re

from msm_jax.synthesis.quality.parts import Finding, Part, prose, words

_CLOSED = re.compile(r"[.!?…:;。！？][\"'”’»)\]*_`]*\Z|(?:```|\|)\Z|[\U0001F300-\U0001FAFF]\Z")
_OPEN_END = re.compile(
    r"(?:[,;:–—-]|\b(?:the|a|an|of|to|and|or|but|that|which|with|for|in|on|at|by|as|is|are|was|were|be|been|its|"
    r"their|his|"
    r"her|this|these|if|when|because|so|not|than|from|into|would|will|can|could|should|has|have|had|it|they|who))\Z",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"\s*(?:[-*•+]|\d{1,3}[.)])\s+\S")
_HEADING = re.compile(r"\s*(?:#{1,6}\s+\S|\*\*[^*\n]+\*\*\s*\Z)")
_MOJIBAKE = re.compile(
    r"[ÃÂ][\u0080-\u00bf\u2018-\u201d\u20ac\u2122\u0152\u0153\u0160\u0161\u0178\u017d\u017e]|"
    r"â€[\u0080-\u00ff\u2018-\u203a\u2122œ]?|Ã[a-z©¨¶¼±³]|ï»¿|ðŸ"
)
_BROKEN = re.compile(r"\ufffd|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]|[\ue000-\uf8ff]|[\ud800-\udfff]")
_INVISIBLE = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\u00ad]")
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|mdash|ndash|rsquo|lsquo|ldquo|rdquo|hellip|#\d{2,5}|#x[0-9a-fA-F]{2,5});"
)
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|(?<!\\)\\[nt](?=[A-Z\\\s\"]|$)|\\\"")
_GRAM = 8


def truncation(part: Part) -> Finding | None:
    """Finds that a text stops in the middle: of a word, a sentence, a quotation or a list."""
    text = part.text.rstrip()
    if part.role == "user" or not text:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    last = lines[-1].strip()
    end = Finding(max(0, len(text) - len(last)), len(text), f"stops at “…{last[-40:]}”")
    bare = last.rstrip("*_`\"'”’»)]")
    if _OPEN_END.search(bare) and not _HEADING.match(last):
        return end
    if _HEADING.match(last):
        return end._replace(note=f"stops after the heading “{last[:40]}”") if len(lines) > 1 else None
    if _CLOSED.search(last):
        opened = _unclosed(lines[-1])
        return end._replace(note=f"stops within {opened}") if opened else None
    if _LIST_ITEM.match(lines[-1]):
        return None if _items_are_open(lines) else end
    return None if _is_signature(last, lines) else end


def _unclosed(line: str) -> str:
    """Returns what the last line opens and does not close, or ""."""
    if line.count("(") > line.count(")"):
        return "a parenthesis"
    return "a quotation" if line.count("“") > line.count("”") or line.count('"') % 2 else ""


def _items_are_open(lines: list[str]) -> bool:
    """Returns whether the items of the list at the end have no full stops in general."""
    items = [line for line in lines if _LIST_ITEM.match(line)]
    others = items[:-1]
    return bool(others) and sum(not _CLOSED.search(line.strip()) for line in others) >= 0.5 * len(others)


def _is_signature(last: str, lines: list[str]) -> bool:
    """Returns whether the last line is a name under a letter, a line of a form, or a line of a poem or table."""
    short = len(last.split()) <= 6
    if short and re.match(r"[—–-]{1,2} ?\S|(?:[A-Z][\w.'’-]*,? ?){1,4}(?:,| \(|\Z)|~", last):
        return len(lines) == 1 or bool(_CLOSED.search(lines[-2].strip()) or lines[-2].strip().endswith(","))
    return False


def length(part: Part, least: int, most: int) -> Finding | None:
    """Finds that a document, or a reply of the assistant, has too few or too many words."""
    if part.role not in ("document", "assistant"):
        return None
    count = len(part.text.split())
    if least <= count <= most:
        return None
    return Finding(
        0, min(len(part.text), 160), f"{count:,} words, fewer than {least:,}" if count < least else f"{count:,} words"
    )


def encoding(part: Part) -> Finding | None:
    """Finds characters that were decoded wrongly, left escaped, or that nobody sees."""
    for pattern, note in (
        (_MOJIBAKE, "characters decoded as another encoding"),
        (_BROKEN, "a broken or control character"),
        (_INVISIBLE, "an invisible character"),
    ):
        if match := pattern.search(part.text):
            return Finding(*match.span(), note)
    text = prose(part.text)
    for pattern, note in ((_ENTITY, "an HTML entity"), (_ESCAPE, "an escape that was not decoded")):
        if match := pattern.search(text):
            return Finding(*match.span(), f"{note}, {match[0]}")
    return None


def repetition(part: Part) -> Finding | None:
    """Finds a text that goes round in circles.

    It does if more than 40 % of its runs of 8 words occurred in it before, or one of them occurs in it 10 times.
    """
    if part.role in ("user", "system"):
        return None
    found = words(part.text)
    counts = collections.Counter(tuple(found[i : i + _GRAM]) for i in range(len(found) - _GRAM + 1))
    if counts.total() < 3 * _GRAM:
        return None
    repeated = 1 - len(counts) / counts.total()
    most = max(counts.values())
    if repeated <= 0.4 and most < 10:
        return None
    note = f"{repeated:.0%} of its runs of {_GRAM} words repeat, one of them {most} times"
    return Finding(max(0, len(part.text) - 160), len(part.text), note)
