"""Answers of the OpenAI protocol: replies as JSON, whole or as the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msm_jax.sampling.engine import Generation
from msm_jax.serving import replies
from msm_jax.serving.formats import ReplyFormat
from msm_jax.serving.replies import Call, Reply

_Json = dict[str, Any]


def models(names: Sequence[str], created: int) -> _Json:
    """Returns the list of models."""
    return {"object": "list", "data": [model(name, created) for name in names]}


def model(name: str, created: int) -> _Json:
    """Returns one model; `created` is a time in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": "msm_jax"}


def usage(prompt_tokens: int, generations: Sequence[Generation]) -> _Json:
    """Returns the numbers of tokens; those of a prompt count once, however many choices it has."""
    drawn = sum(len(generation.ids) for generation in generations)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": drawn, "total_tokens": prompt_tokens + drawn}


def finish_reason(generation: Generation, reply: Reply) -> str:
    """Returns why a reply ended, in OpenAI's words."""
    return "tool_calls" if reply.calls and generation.finish_reason == "stop" else generation.finish_reason


def tool_calls(calls: Sequence[Call], first: int = 0, *, indexed: bool = False) -> list[_Json]:
    """Returns calls with fresh ids; in a stream each has its index, and `first` were sent before."""
    return [
        {
            **({"index": first + i} if indexed else {}),
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for i, call in enumerate(calls)
    ]


def message(reply: Reply) -> _Json:
    """Returns the assistant's message of a chat completion."""
    said: _Json = {"role": "assistant", "content": reply.content or (None if reply.calls else "")}
    if reply.reasoning:
        said["reasoning_content"] = reply.reasoning
    if reply.calls:
        said["tool_calls"] = tool_calls(reply.calls)
    return said


class Answer:
    """The fields that all parts of one answer share."""

    def __init__(self, model_name: str, *, chats: bool) -> None:
        """Gives the answer its id and time."""
        self._chats = chats
        kind = "chat.completion" if chats else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chats else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model_name,
        }

    def whole(self, choices: Sequence[_Json], tokens: Mapping[str, Any]) -> _Json:
        """Returns the answer that is not streamed."""
        return {**self._head, "choices": list(choices), "usage": dict(tokens)}

    def chunk(self, choices: Sequence[_Json], tokens: Mapping[str, Any] | None = None) -> bytes:
        """Returns a server-sent event of a stream."""
        head = {**self._head, "object": "chat.completion.chunk"} if self._chats else self._head
        return event({**head, "choices": list(choices), **({} if tokens is None else {"usage": dict(tokens)})})

    def choice(self, index: int, reason: str | None, logprobs: _Json | None, **said: Any) -> _Json:
        """Returns one choice, or a piece of one; `said` is its message, delta or text."""
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": reason}


def event(value: Mapping[str, Any]) -> bytes:
    """Returns a server-sent event that holds a JSON value."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Deltas:
    """The parts of one chat reply as they become certain."""

    def __init__(self, form: ReplyFormat, *, tools: bool) -> None:
        """Begins with nothing; see `replies.parse` for the arguments."""
        self._form, self._tools = form, tools
        self._text, self._sent = "", Reply()

    def add(self, piece: str) -> _Json:
        """Returns the delta that a further piece of text makes certain; {} for none."""
        self._text += piece
        return self._delta(replies.parse(self._text, self._form, tools=self._tools, final=False))

    def end(self, text: str) -> tuple[_Json, Reply]:
        """Returns what is left of the whole text, and its parts."""
        reply = replies.parse(text, self._form, tools=self._tools)
        return self._delta(reply), reply

    def _delta(self, reply: Reply) -> _Json:
        sent, self._sent = self._sent, reply
        delta: _Json = {}
        if len(reply.reasoning) > len(sent.reasoning):
            delta["reasoning_content"] = reply.reasoning[len(sent.reasoning) :]
        if len(reply.content) > len(sent.content):
            delta["content"] = reply.content[len(sent.content) :]
        if len(reply.calls) > len(sent.calls):
            delta["tool_calls"] = tool_calls(reply.calls[len(sent.calls) :], len(sent.calls), indexed=True)
        return delta
