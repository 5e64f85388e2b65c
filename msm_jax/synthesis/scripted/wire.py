"""The OpenAI chat protocol on the wire: requests of HTTP/1.1 as they are read, replies as they are written."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests",
            500: "Internal Server Error"}
# A prompt with a spec of 60,000 words has some 400 kB.
_LIMIT_BODY = 64 << 20


@dataclass(frozen=True)
class Request:
    """A request: method, path, headers with names in lower case, and body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


async def read(reader: asyncio.StreamReader) -> Request | None:
    """Reads the next request of a connection; None where the client has closed it or does not speak HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        if not 0 <= size <= _LIMIT_BODY:
            return None
        return Request(method, path, headers, await reader.readexactly(size))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        return None


def prompt(body: dict[str, Any]) -> str:
    """Returns the text of a request's messages, joined by line breaks.

    Raises:
        ValueError: the body has no list of messages with text.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError('"messages" must be a list of messages')
    texts = []
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content)
        texts.append(str(content))
    return "\n".join(texts)


def tokens(text: str) -> int:
    """Returns about how many tokens a text has: one for four characters, rounded up."""
    return -(-len(text) // 4)


def completion(text: str, body: dict[str, Any], asked: str, name: str) -> dict[str, Any]:
    """Returns the object of a chat completion; a text over `max_tokens` is cut there and says so."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    finish = "stop"
    if isinstance(limit, int) and tokens(text) > limit:
        text, finish = text[: 4 * limit], "length"
    used = {"prompt_tokens": tokens(asked), "completion_tokens": tokens(text)}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, "logprobs": None}
    return {
        "id": f"chatcmpl-{name[:24]}", "object": "chat.completion", "created": 0, "model": body.get("model", "writer"),
        "choices": [choice], "usage": {**used, "total_tokens": sum(used.values())},
    }


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """Returns the object of an error as the protocol has it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def response(status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> bytes:
    """Returns the bytes of a response with a JSON body."""
    body = json.dumps(value).encode()
    named = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    return _head(status, named) + body


def stream(whole: dict[str, Any], *, with_usage: bool) -> bytes:
    """Returns the bytes of a completion as a stream of events, after which the connection closes."""
    base = {name: whole[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = whole["choices"][0]
    text = choice["message"]["content"]
    pieces = [{"role": "assistant", "content": ""}, *({"content": text[i : i + 200]} for i in range(0, len(text), 200))]
    deltas = [(piece, None) for piece in pieces] + [({}, choice["finish_reason"])]
    chunks: list[dict[str, Any]] = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas
    ]
    if with_usage:
        chunks.append({**base, "choices": [], "usage": whole["usage"]})
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
    return _head(200, {"Content-Type": "text/event-stream", "Connection": "close"}) + "".join(events).encode()


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
