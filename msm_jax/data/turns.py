"""The assistant's turns in a rendered chat, found by rendering the chat up to each turn.

A turn is what its rendering adds to the chat before it, which is rendered with `add_generation_prompt` as for sampling.
It must consist of the turn's thinking, content and tool calls, apart from white space around them, and then a special
token that closes it. If the template marks the assistant's words with `{% generation %}`, only marked text has loss.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_jax.errors import InputError

# The first of these fields that a message has is its thinking. Templates read the first; gpt-oss reads the second.
_THINKING = ("reasoning_content", "thinking", "reasoning")
_THINK_BLOCK = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)
_THINK_TAGS = re.compile(r"</?think>")


@dataclass(frozen=True)
class Rendered:
    """A rendered chat: text, spans of the generation blocks, and whether the template asked for today's date."""

    text: str
    spans: tuple[tuple[int, int], ...]
    dated: bool


@dataclass(frozen=True)
class Turn:
    """An assistant turn.

    Attributes:
      index: the index of its message.
      begin: the end of the prompt, in characters of `rendered`.
      end: the end of the special token that closes the turn.
      loss: the spans from `begin` to `end` that carry loss.
      rendered: the chat up to this turn.
    """

    index: int
    begin: int
    end: int
    loss: tuple[tuple[int, int], ...]
    rendered: str

    def is_in(self, text: str) -> bool:
        """Returns whether a rendering begins with the turn and all text before it, unchanged."""
        return text.startswith(self.rendered[: self.end])


def prepared(message: Mapping[str, Any], strip: bool) -> dict[str, Any]:
    """Returns a message with its thinking in the fields that templates read; `strip` removes an assistant's."""
    thinking = next((message[name] for name in _THINKING if message.get(name) is not None), None)
    if strip and message.get("role") == "assistant":
        bare = {key: value for key, value in message.items() if key not in _THINKING}
        if isinstance(message.get("content"), str):
            bare["content"] = _split_thinking(message["content"])[1]
        return bare
    return dict(message) if thinking is None else {"thinking": thinking, **message, "reasoning_content": thinking}


def turns_of(
    messages: Sequence[Mapping[str, Any]],
    renderings: Mapping[int, tuple[str, Rendered]],
    specials: re.Pattern[str],
    *,
    mask_thinking: bool,
    lenient: bool,
) -> list[Turn]:
    """Finds the assistant's turns.

    Args:
      messages: the messages that were rendered.
      renderings: for each turn, by its index: the chat before it with a generation prompt, and the chat with it.
      specials: matches the special tokens that may close a turn.
      mask_thinking: whether the thinking of a turn carries no loss.
      lenient: whether turns that cannot be found are left out; otherwise they are refused.

    Raises:
      InputError: a turn cannot be found in its rendering; the message names the turn.
    """
    marked = not lenient and any(rendered.spans for _, rendered in renderings.values())
    turns = []
    for i, (opener, rendered) in renderings.items():
        found = None
        if rendered.text.startswith(opener):
            found = _read(rendered.text[len(opener) :], messages[i], specials)
        if found is None and lenient:
            continue
        if found is None:
            raise InputError(_uncertain(i, messages[i], opener, rendered.text))
        begin = len(opener)
        thought, end = begin + found[0], begin + found[1]
        spans = _clipped(rendered, begin, end, i) if marked else [(begin, end)]
        if mask_thinking:
            spans = [(max(a, thought), b) for a, b in spans if b > thought]
        turns.append(Turn(i, begin, end, tuple(spans), rendered.text))
    if marked:
        _check_marks(turns, [rendered for _, rendered in renderings.values()])
    return turns


def check_for_training(rendered: Rendered, tools: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuses a chat whose template (named `where`) writes today's date, or does not write the tools.

    Raises:
      InputError: names the template, or the tool.
    """
    if rendered.dated:
        raise InputError(
            f"{where}: it writes today's date, so a run tomorrow would train on other text; set the variable that "
            'replaces the date in data.chat.variables ("date_string" for Llama 3)'
        )
    for n, tool in enumerate(tools):
        name = tool.get("function", tool).get("name", "")
        if name not in rendered.text:
            raise InputError(
                f'field "tools[{n}]": the chat template does not write it, so the model never sees {name}; remove '
                '"tools", or use a template that writes tools'
            )


def _uncertain(i: int, message: Mapping[str, Any], opener: str, text: str) -> str:
    if not text.startswith(opener):
        return (
            f'field "messages[{i}]": the chat template writes the text before this assistant turn in one way '
            "for sampling it and in another when it is part of the chat; use another template or remove the turn"
        )
    written = text[len(opener) :]
    thinking = str(message.get("reasoning_content") or "").strip()
    if thinking and thinking not in written:
        return (
            f'field "messages[{i}].reasoning_content": the chat template does not write it; set chat.thinking = '
            '"strip", or use a template that writes it'
        )
    content = str(message.get("content") or "").strip()
    if message.get("tool_calls") and content and content not in written:
        return (
            f'field "messages[{i}].content": the chat template does not write it beside tool calls; empty it, or '
            "use a template that writes both"
        )
    what = "content, tool calls" if message.get("tool_calls") else "content"
    return (
        f'field "messages[{i}]": the chat template does not write this assistant turn as opener, {what} and closing '
        "special token, so what carries loss is uncertain; use another template"
    )


def _clipped(rendered: Rendered, begin: int, end: int, i: int) -> list[tuple[int, int]]:
    """Returns the parts of a turn that generation blocks mark; refuses blocks that mark text outside of it."""
    spans = [(a, b) for a, b in rendered.spans if a < end and b > begin]
    for a, b in spans:
        outside = rendered.text[a : max(a, begin)] + rendered.text[end : max(b, end)]
        if _THINK_TAGS.sub("", outside).strip():
            raise InputError(
                f'field "messages[{i}]": the chat template marks more than this assistant turn as generated '
                f"({outside.strip()[:40]!r}); correct its generation blocks"
            )
    clipped = [(max(a, begin), min(b, end)) for a, b in spans]
    if not any(a < b for a, b in clipped):
        raise InputError(
            f'field "messages[{i}]": the chat template has generation blocks, but none marks this assistant turn; '
            "correct them"
        )
    return [(a, b) for a, b in clipped if a < b]


def _check_marks(turns: Sequence[Turn], renderings: Sequence[Rendered]) -> None:
    """Refuses a generation block in the longest rendering that marks no assistant turn."""
    rendered = max(renderings, key=lambda r: len(r.text))
    here = [turn for turn in turns if turn.is_in(rendered.text)]
    for a, b in rendered.spans:
        if rendered.text[a:b].strip() and not any(a < turn.end and b > turn.begin for turn in here):
            if len(here) < len(turns):
                continue  # the block of a turn that the template rewrites, which is trained from another rendering
            raise InputError(
                f"the chat template marks {rendered.text[a:b].strip()[:40]!r} as generated, which is in no assistant "
                "turn; correct its generation blocks"
            )


def _read(said: str, message: Mapping[str, Any], specials: re.Pattern[str]) -> tuple[int, int] | None:
    """Returns the ends of the thinking and of the closing special token in a turn's text, or None."""
    for thought, spoken in _candidates(said, message):
        end = _calls_end(said, spoken, message.get("tool_calls") or ())
        closing = specials.search(said, end) if end is not None else None
        if closing is None or end is None:
            continue
        # In a turn without calls, nothing may follow the content.
        if message.get("tool_calls") or not said[end : closing.start()].strip():
            return thought, closing.end()
    return None


def _candidates(said: str, message: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yields (end of the thinking, end of the content) for each way in which a template may write a message."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        return
    content = content.strip()
    thinking = message.get("reasoning_content")
    at = len(said) - len(said.lstrip())
    if not thinking and said.startswith(content, at):
        before, answer = _split_thinking(content)
        yield (0 if before is None else at + len(content) - len(answer)), at + len(content)
    block = _THINK_BLOCK.match(said)
    if block is None:
        return
    before, answer = (thinking, content) if thinking else _split_thinking(content)
    answer = answer.strip()
    if block.group(1).strip() == (before or "").strip() and said.startswith(answer, block.end()):
        yield block.end(), block.end() + len(answer)


def _calls_end(said: str, at: int, calls: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the end of the last tool call; each is its name, then its arguments. None if one is missing."""
    for call in calls:
        function = call.get("function") or call
        name, arguments = str(function.get("name")), function.get("arguments")
        begin = said.find(name, at)
        if begin < 0:
            return None
        at = begin + len(name)
        whole = [arguments] if isinstance(arguments, str) else _written(arguments)
        ends = [said.find(text, at) + len(text) for text in whole if said.find(text, at) >= 0]
        if ends:
            at = min(ends)
            continue
        for text in _leaves(arguments):
            begin = said.find(text, at)
            if begin < 0:
                return None
            at = begin + len(text)
    return at


def _written(value: Any) -> list[str]:
    """Returns the texts that a template may write for a JSON value."""
    return [json.dumps(value, ensure_ascii=False, separators=how) for how in (None, (",", ":"))]


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield json.dumps(value, ensure_ascii=False).strip('"')


def _split_thinking(content: str) -> tuple[str | None, str]:
    """Splits an assistant's content into the thinking at its start, None if there is none, and the rest."""
    block = _THINK_BLOCK.match(content)
    begins = content.lstrip().startswith("<think>")
    if block is None or content.count("</think>") != 1 or ("<think>" in content and not begins):
        return None, content
    return block.group(1), content[block.end() :]
