"""Requests of the OpenAI protocol: from JSON to settings, each field checked by name.

A field that this server cannot honour is refused, except where it has the value that changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_jax.data import messages as chat_data
from msm_jax.errors import InputError
from msm_jax.foundation import settings

# The most choices of one prompt, prompts of one request, and alternatives of one token.
MOST_CHOICES = 128
MOST_PROMPTS = 1024
MOST_ALTERNATIVES = 20
_ROLES = ("system", "developer", "user", "assistant", "tool")
# Fields that say nothing about the reply.
_IGNORED = {"user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "parallel_tool_calls"}
# Fields that are accepted with these values only, which ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
    "functions": ([], None),
    "function_call": ("auto", "none", None),
}


class ApiError(Exception):
    """A refusal in OpenAI's shape; see `body`.

    Attributes:
        status: the HTTP status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        """Takes the parts of OpenAI's error: message, the field `param`, and a code that programs read."""
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        model: the name of a model or adapter.
        messages: the chat; () for a completion.
        tools: the tools of the chat.
        prompts: the prompts of a completion, as text or token ids; () for a chat.
        choices: how many replies to draw for each prompt.
        max_tokens: the most tokens of a reply; None for all that fit.
        drawing: fields of `SamplingConfig` beside `max_new_tokens` and the seed.
        seed: None for one that differs from request to request.
        logprobs: how many alternatives to give for each token, beside its own log-probability; None for no
            log-probabilities.
        stream: whether to send the reply while it is drawn.
        with_usage: whether a stream ends with the usage.
    """

    model: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    prompts: tuple[str | tuple[int, ...], ...]
    choices: int
    max_tokens: int | None
    drawing: Mapping[str, Any]
    seed: int | None
    logprobs: int | None
    stream: bool
    with_usage: bool


class _Fields:
    """The fields of a body, each taken once; `finish` refuses those that nothing has taken."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ApiError(400, f"the body is {chat_data.json_type(body)}, not a JSON object")
        self._left = dict(body)
        self._known: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """Returns a field's value; `default` where it is missing or null."""
        self._known.append(name)
        value = self._left.pop(name, None)
        return default if value is None else value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """Returns a number from `low` to `high`."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ApiError(400, f"{name} is {_shown(value)}; it must be a number from {low:g} to {high:g}", param=name)
        return float(value)

    def integer(self, name: str, low: int, high: float, default: int | None) -> int | None:
        """Returns an integer from `low` to `high`."""
        value = self.take(name, default)
        if value is not None and (type(value) is not int or not low <= value <= high):
            most = "" if math.isinf(high) else f" and at most {high}"
            raise ApiError(400, f"{name} is {_shown(value)}; it must be an integer of at least {low}{most}", param=name)
        return value

    def flag(self, name: str) -> bool:
        """Returns true or false."""
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise ApiError(400, f"{name} is {_shown(value)}; it must be true or false", param=name)
        return value

    def finish(self) -> None:
        """Refuses fields that change the reply in a way that this server does not offer, and unknown fields."""
        for name, value in self._left.items():
            if name in _IGNORED:
                continue
            if name in _NEUTRAL:
                if value not in _NEUTRAL[name]:
                    raise ApiError(400, f"{name} = {_shown(value)} is not supported; leave it out", param=name)
                continue
            near = settings.nearest(name, self._known)
            raise ApiError(400, f"{name}: unknown parameter; {near}", param=name, code="unknown_parameter")


def chat(body: Any) -> Asked:
    """Returns what the body of a request for a chat completion asks for.

    Raises:
        ApiError: a field is missing, unknown, of a wrong type or out of range.
    """
    fields = _Fields(body)
    found = _messages(fields.take("messages"))
    try:
        tools = chat_data.read_tools(fields.take("tools"), "request")
    except InputError as error:
        raise ApiError(400, str(error), param="tools") from None
    choice = fields.take("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise ApiError(
            400, f'tool_choice = {_shown(choice)} is not supported; use "auto" or "none"', param="tool_choice"
        )
    longest = fields.integer("max_tokens", 1, math.inf, None)
    newest = fields.integer("max_completion_tokens", 1, math.inf, None)
    with_logprobs = fields.flag("logprobs")
    alternatives = fields.integer("top_logprobs", 0, MOST_ALTERNATIVES, None)
    if alternatives is not None and not with_logprobs:
        raise ApiError(400, "top_logprobs needs logprobs = true; add it", param="top_logprobs")
    return _asked(
        fields,
        messages=found,
        tools=() if choice == "none" else tools,
        prompts=(),
        max_tokens=newest if longest is None else longest,
        logprobs=(alternatives or 0) if with_logprobs else None,
    )


def completion(body: Any) -> Asked:
    """Returns what the body of a request for a completion of plain text asks for.

    Raises:
        ApiError: as `chat`.
    """
    fields = _Fields(body)
    prompts = _prompts(fields.take("prompt"))
    return _asked(
        fields,
        messages=(),
        tools=(),
        prompts=prompts,
        # OpenAI's default.
        max_tokens=fields.integer("max_tokens", 1, math.inf, 16),
        logprobs=fields.integer("logprobs", 0, MOST_ALTERNATIVES, None),
    )


def _asked(fields: _Fields, **given: Any) -> Asked:
    """Returns the request from the fields that both kinds have, and those `given`."""
    model = fields.take("model", "")
    if not isinstance(model, str):
        raise ApiError(400, f"model is {_shown(model)}; it must be a string", param="model")
    stop = fields.take("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(each, str) and each for each in stop):
        raise ApiError(400, f"stop is {_shown(stop)}; it must be a string or a list of strings", param="stop")
    stream = fields.flag("stream")
    options = fields.take("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage", "include_obfuscation"}:
        raise ApiError(
            400, f'stream_options is {_shown(options)}; it may have "include_usage"', param="stream_options"
        )
    drawing = {
        "temperature": fields.number("temperature", 0, 2, 1.0),
        "top_p": fields.number("top_p", 0, 1, 1.0),
        "top_k": max(0, fields.integer("top_k", -1, math.inf, 0) or 0),
        "stop": tuple(stop),
    }
    choices = fields.integer("n", 1, MOST_CHOICES, 1) or 1
    seed = fields.integer("seed", -(2**63), 2**64, None)
    fields.finish()
    return Asked(
        model=model,
        choices=choices,
        drawing=drawing,
        seed=None if seed is None else seed % 2**31,
        stream=stream,
        with_usage=bool(options.get("include_usage")),
        **given,
    )


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Returns the messages in the form of chat data; a template decides which orders of roles it takes."""
    if not isinstance(value, list) or not value:
        raise ApiError(400, 'messages must be a non-empty list of {"role", "content"}', param="messages")
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for i, message in enumerate(value):
        field = f"messages[{i}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            raise ApiError(400, f"{field}.role is {_shown(role)}; use one of {', '.join(_ROLES)}", param=field)
        # Templates know the first name of the role alone.
        role = "system" if message["role"] == "developer" else message["role"]
        try:
            content = chat_data.read_content(message.get("content"), "request", f"{field}.content", may_be_empty=True)
            calls = chat_data.read_calls(message.get("tool_calls"), "request", field) if role == "assistant" else []
            thinking = message.get("reasoning_content") or message.get("reasoning")
            if thinking:
                thinking = chat_data.checked_text(thinking, "request", f"{field}.reasoning_content")
        except InputError as error:
            raise ApiError(400, str(error), param=field) from None
        read: dict[str, Any] = {"role": role, "content": content}
        if calls:
            read["tool_calls"] = calls
            names |= {call["id"]: call["function"]["name"] for call in calls if "id" in call}
        if role == "assistant" and thinking:
            read["reasoning_content"] = thinking
        if role == "tool":
            call_id = message.get("tool_call_id")
            known = {"tool_call_id": call_id, "name": message.get("name") or names.get(str(call_id))}
            read |= {key: entry for key, entry in known.items() if isinstance(entry, str)}
        found.append(read)
    return tuple(found)


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """Returns the prompts: a text, ids, or a list of either."""
    listed = value if isinstance(value, list) and not _is_ids(value) else [value]
    found: list[str | tuple[int, ...]] = []
    for each in listed:
        if isinstance(each, str):
            found.append(each)
        elif _is_ids(each):
            found.append(tuple(each))
        else:
            raise ApiError(
                400, f"prompt is {_shown(value)}; it must be a text, a list of token ids, or a list of those",
                param="prompt",
            )
    if not 0 < len(found) <= MOST_PROMPTS:
        raise ApiError(400, f"prompt lists {len(found)} prompts; give 1 to {MOST_PROMPTS}", param="prompt")
    return tuple(found)


def _is_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(type(each) is int for each in value)


def _shown(value: Any) -> str:
    """Returns the JSON of a value, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
