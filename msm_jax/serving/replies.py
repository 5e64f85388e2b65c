"""The parts of a reply: thinking, words and tool calls, whole or while it is being drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msm_jax.serving.formats import THINK, THOUGHT, CallFormat, ReplyFormat

# Control characters in strings are common in what models write.
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """The parts of a reply; "" and () where it has none."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[Call, ...] = ()


def parse(text: str, form: ReplyFormat, *, tools: bool, final: bool = True) -> Reply:
    """Returns the parts of a reply.

    What is not a whole call in the template's form stays among the words. White space around thinking and calls
    belongs to neither part.

    Args:
        text: the decoded reply.
        form: how the template writes replies.
        tools: whether the model was given tools; otherwise nothing is a call.
        final: whether the reply is complete. Otherwise only what no further text can change is returned, so that the
            parts of a longer beginning start with those of a shorter one.
    """
    reasoning = ""
    bare = text.lstrip()
    opened = form.opens_thinking and not bare.startswith(THINK)
    if not final and not opened and THINK.startswith(bare):
        return Reply()
    if opened or bare.startswith(THINK):
        thought, ended, rest = (text if opened else bare.removeprefix(THINK)).partition(THOUGHT)
        if not ended:
            return Reply(thought.strip() if final else _settled(thought, THOUGHT).lstrip())
        reasoning, text = thought.strip(), rest.lstrip()
    if not tools or form.calls is None:
        return Reply(reasoning, text)
    if form.calls.opener in ("", "["):
        calls = _bare_calls(text, form.calls) if final else ()
        waits = not final and (not text.strip() or text.lstrip()[0] in "{[")
        return Reply(reasoning, "" if calls or waits else text, calls)
    return Reply(reasoning, *_framed_calls(text, form.calls, final))


def _framed_calls(text: str, form: CallFormat, final: bool) -> tuple[str, tuple[Call, ...]]:
    """Returns the words around calls that have an opener, and the calls."""
    words, calls = "", list[Call]()
    at, search = 0, 0
    while (begin := text.find(form.opener, search)) >= 0:
        found = _object(text, begin + len(form.opener))
        call = None if found is None else _call(found[0], form)
        if found is None or call is None:
            if not final:
                return words + _stripped(text[at:begin], bool(calls)).rstrip(), tuple(calls)
            search = begin + len(form.opener)
            continue
        words += _stripped(text[at:begin], bool(calls)).rstrip()
        calls.append(call)
        at = search = _after(text, found[1], form.closer)
    rest = _stripped(text[at:], bool(calls))
    if calls and form.closer.startswith(rest):
        rest = ""
    return words + (rest if final else _settled(rest, form.opener)), tuple(calls)


def _stripped(text: str, follows_call: bool) -> str:
    return text.lstrip() if follows_call else text


def _bare_calls(text: str, form: CallFormat) -> tuple[Call, ...]:
    """Returns the calls of a text that consists of calls alone; () if it does not."""
    calls = list[Call]()
    text = text.strip()
    at = 0
    while at < len(text):
        found = _object(text, at)
        each = [] if found is None else found[0] if isinstance(found[0], list) else [found[0]]
        made = [_call(one, form) for one in each]
        if found is None or not made:
            return ()
        for call in made:
            if call is None:
                return ()
            calls.append(call)
        at = found[1]
        while at < len(text) and text[at] in " \n\t;,":
            at += 1
    return tuple(calls)


def _object(text: str, at: int) -> tuple[Any, int] | None:
    """Returns the JSON value after white space and its end, or None."""
    while at < len(text) and text[at].isspace():
        at += 1
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None


def _call(value: Any, form: CallFormat) -> Call | None:
    """Returns the call that a JSON value describes, or None."""
    if not isinstance(value, dict) or not isinstance(value.get(form.name), str):
        return None
    arguments = value.get(form.arguments, {})
    if isinstance(arguments, str):
        found = _object(arguments, 0)
        arguments = None if found is None else found[0]
    return Call(value[form.name], arguments) if isinstance(arguments, dict) else None


def _after(text: str, at: int, closer: str) -> int:
    """Returns the place after a call's closer, which a reply that was cut may lack."""
    begin = len(text) - len(text[at:].lstrip())
    return begin + len(closer) if closer and text.startswith(closer, begin) else at


def _settled(text: str, marker: str) -> str:
    """Returns a beginning without what may be the start of a marker, and the white space before it."""
    begun = max((k for k in range(1, min(len(marker), len(text) + 1)) if text.endswith(marker[:k])), default=0)
    return text[: len(text) - begun].rstrip()
