"""How a chat template writes what an assistant says beside its words: tool calls and thinking.

The form of a call is read from the template itself: it renders a call whose name and arguments are known, and what it
writes around them is the form. So Hermes' and Qwen's `<tool_call>{…}</tool_call>`, Llama 3's bare objects and Mistral's
lists need no table of models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

THINK, THOUGHT = "<think>", "</think>"
_NAME, _ARGUMENTS = "probe_of_tools", {"probe_of_key": "probe_of_value"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"probe_of_key": {"type": "string"}}},
    },
}
# Some templates want nine letters or digits as an id (Mistral).
_CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
_ASKED = {"role": "user", "content": "a"}
_CALLED = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_EMPTY_THOUGHT = re.compile(rf"{THINK}\s*{THOUGHT}")


@dataclass(frozen=True)
class CallFormat:
    """A JSON object for each tool call, in this frame.

    Attributes:
        opener: the text before a call (`<tool_call>`); "" or "[" where a call has none of its own.
        closer: the text after it.
        name: the key of the function's name.
        arguments: the key of its arguments.
    """

    opener: str
    closer: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ReplyFormat:
    """How replies are to be read.

    Attributes:
        opens_thinking: whether the prompt ends with `<think>`, so that a reply begins with thinking.
        writes_tools: whether the template writes the descriptions of tools.
        calls: the form of tool calls; None where the template writes none, or none as JSON objects.
    """

    opens_thinking: bool = False
    writes_tools: bool = False
    calls: CallFormat | None = None


def of_template(template: ChatTemplate, tokenizer: Tokenizer) -> ReplyFormat:
    """Returns the format of a template's replies; what the template refuses to write, it does not have."""

    def rendered(messages: Sequence[Mapping[str, Any]], prompt: bool, tools: Sequence[Mapping[str, Any]]) -> str:
        return template.renders(messages, [(len(messages), prompt)], tools, tokenizer.named_specials)[0].text

    try:
        opens_thinking = rendered([_ASKED], True, []).rstrip().endswith(THINK)
    except InputError:
        opens_thinking = False
    try:
        prompt = rendered([_ASKED], True, [_TOOL])
        if _NAME not in prompt:
            return ReplyFormat(opens_thinking)
        before = rendered([_ASKED], False, [_TOOL])
        whole = rendered([_ASKED, _CALLED], False, [_TOOL])
    except InputError:
        return ReplyFormat(opens_thinking)
    begin = len(prompt) if whole.startswith(prompt) else len(before)
    return ReplyFormat(opens_thinking, True, _calls(whole[begin:], tokenizer))


def _calls(turn: str, tokenizer: Tokenizer) -> CallFormat | None:
    """Returns the form of the call in a rendered turn; None if it is not a JSON object with name and arguments."""
    at = turn.find("{")
    while at >= 0:
        try:
            call, end = json.JSONDecoder().raw_decode(turn, at)
        except ValueError:
            call = None
        keys = _keys(call) if isinstance(call, dict) else None
        if keys is not None:
            marker = tokenizer.marker_pattern
            # Decoded replies lack special tokens, such as Mistral's [TOOL_CALLS].
            opener = marker.sub("", _EMPTY_THOUGHT.sub("", turn[:at])).strip()
            closing = marker.search(turn, end)
            closer = turn[end : closing.start() if closing else len(turn)].strip()
            return CallFormat(opener, closer, *keys)
        at = turn.find("{", at + 1)
    return None


def _keys(call: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns the keys that hold the probe's name and its arguments."""
    name = [key for key, value in call.items() if value == _NAME]
    arguments = [key for key, value in call.items() if value in (_ARGUMENTS, json.dumps(_ARGUMENTS))]
    return (name[0], arguments[0]) if name and arguments else None
