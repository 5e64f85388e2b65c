"""Serves `/v1/chat/completions` and `/v1/models` on loopback, with the faults and the latency that are asked for.

A reply is a function of the server's seed, the model's name, the messages and the request's `seed`. So a request
that is to have another reply sends another seed.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax.synthesis.scripted import faults, grammar, prompts, wire
from msm_jax.synthesis.scripted.draw import Draw
from msm_jax.synthesis.scripted.faults import Faults
from msm_jax.synthesis.scripted.log import Entry, Log


@dataclass(frozen=True)
class Settings:
    """How a server answers; `latency` is in seconds, and the log is a file of JSON lines."""

    seed: int = 0
    latency: float = 0.0
    faults: Faults = dataclasses.field(default_factory=Faults)
    log: str | None = None
    # Where it is set, requests with another key are refused, and the refusal repeats the key that was sent.
    key: str | None = None
    retry_after: float = 0.05


class Server:
    """A server with its counts; `start` begins to listen."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.log = settings, Log(Path(settings.log) if settings.log else None)
        self._attempts: collections.Counter[str] = collections.Counter()

    async def start(self, port: int = 0) -> tuple[asyncio.Server, str]:
        """Listens on a port of 127.0.0.1, any free one for 0; returns the listener and the base URL of the API."""
        listener = await asyncio.start_server(self._connection, "127.0.0.1", port, limit=1 << 20, backlog=1024)
        return listener, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection in turn."""
        try:
            while request := await wire.read(reader):
                if not await self._answer(request, reader, writer):
                    break
                await writer.drain()
        except ConnectionError:
            # The client is gone; its request has been logged.
            pass
        finally:
            writer.close()

    async def _answer(self, request: wire.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers a request; returns whether the connection stays open."""
        path = request.path.split("?")[0]
        if request.method == "GET" and path == "/v1/models":
            models = [{"id": "writer", "object": "model", "created": 0, "owned_by": "scripted"}]
            writer.write(wire.response(200, {"object": "list", "data": models}))
        elif request.method == "GET" and path == "/totals":
            writer.write(wire.response(200, self.log.totals()))
        elif request.method == "POST" and path == "/v1/chat/completions":
            return await self._chat(request, reader, writer)
        else:
            writer.write(wire.response(404, wire.error(f"no {request.method} {path}", "invalid_request_error")))
        return True

    async def _chat(self, request: wire.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers a request for a chat completion; returns whether the connection stays open."""
        began = self.log.begin()
        asked, seed, answer = "", None, _Answer(0)
        try:
            body = json.loads(request.body)
            asked, seed = wire.prompt(body), body.get("seed")
            answer = self._decided(request, body, asked)
            if answer.fault == "hang":
                await reader.read(1)
            elif answer.status == 200:
                await asyncio.sleep(self.settings.latency)
            if reader.at_eof() or writer.transport.is_closing():
                answer = dataclasses.replace(answer, status=0, response=b"", keep=False)
        except (ValueError, AttributeError) as error:
            answer = _refused(400, str(error), "invalid_request_error")
        finally:
            sha256 = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()
            self.log.end(Entry(
                sha256, prompts.stage(asked), seed, answer.status, answer.fault, began, time.time(), wire.tokens(asked),
                wire.tokens(answer.reply),
            ))
        writer.write(answer.response)
        return answer.keep

    def _decided(self, request: wire.Request, body: dict[str, Any], asked: str) -> _Answer:
        """Returns what a request is answered; counts the attempts at its prompt."""
        settings, given = self.settings, request.headers.get("authorization", "").removeprefix("Bearer ")
        over = settings.faults.refuse_after is not None and self.log.replies >= settings.faults.refuse_after
        if (settings.key is not None and given != settings.key) or (over and settings.faults.refuse_as == "key"):
            return _refused(401, f"Incorrect API key provided: {given}.", "invalid_request_error", "invalid_api_key")
        if over:
            message = "You exceeded your current quota, please check your plan and billing details."
            return _refused(429, message, "insufficient_quota", "insufficient_quota")
        seeds = (settings.seed, body.get("model"), body.get("seed"))
        name = hashlib.sha256("\0".join(map(str, (*seeds, asked))).encode("utf-8", "surrogatepass")).hexdigest()
        passing = faults.passing(settings.faults, Draw("passing", name), self._attempts[name])
        if passing:
            self._attempts[name] += 1
        if passing == "hang":
            return _Answer(0, fault=passing, keep=False)
        if passing == "server_error":
            return _refused(500, "The server had an error.", passing)
        if passing in ("rate_limit", "bare_rate_limit"):
            headers = {"Retry-After": str(settings.retry_after)} if passing == "rate_limit" else {}
            return _refused(429, "Rate limit reached.", passing, headers=headers)
        lasting = faults.lasting(settings.faults, Draw("lasting", name), prompts.stage(asked))
        reply = faults.spoil(grammar.reply(asked, *seeds), lasting, Draw("spoil", name))
        whole = wire.completion(reply, body, asked, name)
        streams = bool(body.get("stream"))
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        response = wire.stream(whole, with_usage=with_usage) if streams else wire.response(200, whole)
        if passing == "cut":
            return _Answer(0, response[: len(response) // 2], passing, keep=False)
        return _Answer(200, response, lasting, keep=not streams, reply=reply)


@dataclass(frozen=True)
class _Answer:
    """What the server does with a request; the status 0 stands for no whole response."""

    status: int
    response: bytes = b""
    fault: str = ""
    keep: bool = True
    reply: str = ""


def _refused(
    status: int, message: str, kind: str, code: str | None = None, headers: dict[str, str] | None = None
) -> _Answer:
    """Returns an answer that is an error of the protocol."""
    return _Answer(status, wire.response(status, wire.error(message, kind, code), headers), code or kind)
