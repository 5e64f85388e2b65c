"""Reads replies of writers: lists of objects, texts between tags. What is usable is kept, and the rest has a reason."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder(strict=False)
_REFUSAL = re.compile(
    r"\s*(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|i can(?:no|['’])t|i can not|i won['’]t|i will not|"
    r"i(?:['’]m| am) (?:not able|unable|not comfortable)|unfortunately,? i|as an ai\b)",
    re.IGNORECASE,
)
_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufeff\ufffe\uffff]")


@dataclass
class Unusable(Exception):
    """A reply that cannot be used.

    Attributes:
        reason: a code: empty, refused, unterminated, no_content, not_json, no_items.
        detail: what was found, at most 200 characters.
    """

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def objects(reply: str, required: Sequence[str], optional: Sequence[str] = ()) -> tuple[list[dict[str, str]], int]:
    """Returns the usable objects of a reply that is meant to be a JSON array of them, and how many were not usable.

    The array may stand in prose or in a fence, and may be broken off; every object that is complete is read by itself.
    An object is usable if its required fields are strings that are not blank. Numbers count as strings, and lists of
    strings are joined.

    Args:
        reply: the whole reply.
        required: fields that an object must have.
        optional: fields that are "" where an object lacks them.

    Raises:
        Unusable: the reply holds no usable object.
    """
    text = without_thinking(reply)
    if not text.strip():
        raise Unusable("empty", "the reply has no text")
    good: list[dict[str, str]] = []
    bad = 0
    for found in _found(text):
        fields = {name: _string(found.get(name)) for name in (*required, *optional)} if isinstance(found, dict) else {}
        if fields and all(fields[name] for name in required):
            good.append(fields)
        else:
            bad += 1
    if not good:
        if _REFUSAL.match(text):
            raise Unusable("refused", _short(text))
        if bad:
            raise Unusable("no_items", f"none of {bad} elements has {', '.join(required)}")
        raise Unusable("not_json", _short(text))
    return good, bad


def content(reply: str) -> str:
    """Returns the text between <content> and </content>, without what writers put around it.

    Raises:
        Unusable: a tag is missing, or the text is empty or a refusal.
    """
    text = without_thinking(reply)
    if not text.strip():
        raise Unusable("empty", "the reply has no text")
    # A plan may mention the tag; the text begins after it.
    plan_end = text.find("</plan>")
    start = text.find("<content>", max(plan_end, 0))
    if start < 0:
        if _REFUSAL.match(text):
            raise Unusable("refused", _short(text))
        is_cut = "<plan>" in text and plan_end < 0
        raise Unusable("unterminated" if is_cut else "no_content", _short(text[-200:]))
    end = text.rfind("</content>")
    if end < start:
        raise Unusable("unterminated", f"no closing tag after {len(text) - start} characters")
    found = clean(text[start + len("<content>") : end])
    if not found:
        raise Unusable("empty", "nothing stands between the tags")
    if _REFUSAL.match(found) and len(found.split()) < 100:
        raise Unusable("refused", _short(found))
    return found


def tagged(reply: str, tag: str) -> str:
    """Returns what stands between the last pair of a tag, "" where the reply has none."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", without_thinking(reply), re.DOTALL)
    return found[-1].strip() if found else ""


def without_thinking(reply: str) -> str:
    """Returns a reply without the thinking that some models write before it, closed by a tag that may stand alone."""
    text = _THINKING.sub("", reply)
    for tag in ("</think>", "</thinking>"):
        end = text.find(tag)
        opening = text.find(tag.replace("/", ""))
        if end >= 0 and not 0 <= opening < end:
            text = text[end + len(tag) :]
    return text


def clean(text: str) -> str:
    """Returns a text without control characters, halves of surrogate pairs, and blanks at its ends."""
    return _UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def _found(text: str) -> list[Any]:
    """Returns the elements of the largest array that parses as a whole, else all complete objects in the text."""
    position = text.find("[")
    while position >= 0:
        try:
            value, _ = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            return value
        position = text.find("[", position + 1)
    found: list[Any] = []
    position = text.find("{")
    while position >= 0:
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            # The object is broken; its siblings after it may be whole.
            found.append(None)
            end = position + 1
        else:
            found.append(value)
        position = text.find("{", end)
    return _unwrapped(found)


def _unwrapped(found: list[Any]) -> list[Any]:
    """Returns the elements of the one list that a single object holds, as in {"domains": [...]}."""
    if len(found) == 1 and isinstance(found[0], dict):
        lists = [value for value in found[0].values() if isinstance(value, list) and value]
        if len(lists) == 1 and isinstance(lists[0][0], dict):
            return lists[0]
    return found


def _string(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    return clean(value) if isinstance(value, str) else ""


def _short(text: str) -> str:
    return " ".join(clean(text).split())[:200]
