"""The OpenAI protocol as an ASGI application: `/v1/models`, `/v1/chat/completions` and `/v1/completions`.

A client that goes away cancels its requests, and so frees their slots. Every refusal has OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from msm_jax.errors import InputError, WorkError
from msm_jax.sampling.engine import Generation, Request
from msm_jax.serving import answers, logprobs, replies, requests
from msm_jax.serving.answers import Answer, Deltas
from msm_jax.serving.dialects import Dialect
from msm_jax.serving.host import Host, requests_of
from msm_jax.serving.requests import ApiError, Asked

log = logging.getLogger(__name__)

# The most bytes of a request: several times the text of the longest context that models have.
MOST_BYTES = 16 << 20
# What a stream is told: the index of a choice, and a piece of its text, or how it ended.
_Said = tuple[int, str | Generation | BaseException]
_DONE = b"data: [DONE]\n\n"


def application(host: Host, models: Mapping[str, str], token: str = "") -> Any:
    """Returns the ASGI application that answers for a host.

    Args:
        host: what answers.
        models: the names under which it answers, and the adapter of each, "" for the base.
        token: what requests must carry; "" for nothing.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    api = _Api(host, models)

    async def refused(request: Any, error: Exception) -> Any:
        found = _as_api_error(error)
        headers = {"WWW-Authenticate": "Bearer"} if found.status == 401 else None
        return JSONResponse(found.body, found.status, headers)

    async def missing(request: Any, error: Any) -> Any:
        return JSONResponse(
            ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").body, error.status_code
        )

    async def gone(request: Any, error: Exception) -> Any:
        return _gone()

    def guarded(endpoint: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def checked(request: Any) -> Any:
            _check_token(request, token)
            return await endpoint(request)

        return checked

    routes = [
        Route("/v1/models", guarded(api.models), methods=["GET"]),
        Route("/v1/models/{name:path}", guarded(api.model), methods=["GET"]),
        Route("/v1/chat/completions", guarded(api.chat), methods=["POST"]),
        Route("/v1/completions", guarded(api.completion), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((ApiError, InputError, WorkError, RecursionError), refused)
    handlers |= {HTTPException: missing, ClientDisconnect: gone, Exception: refused}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    """The endpoints; each takes a request of starlette's and returns a response."""

    def __init__(self, host: Host, models: Mapping[str, str]) -> None:
        self._host, self._models = host, models
        self._created = int(time.time())

    async def models(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse(answers.models(list(self._models), self._created))

    async def model(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        name = request.path_params["name"]
        self._adapter(name)
        return JSONResponse(answers.model(name, self._created))

    async def chat(self, request: Any) -> Any:
        asked = requests.chat(await _body(request))
        adapter = self._adapter(asked.model)
        # A foreign template renders in a process of its own, while other requests go on here.
        prompt = await asyncio.to_thread(self._host.dialects[adapter].chat_prompt, asked.messages, asked.tools)
        return await self._respond(request, asked, [prompt], adapter, "messages")

    async def completion(self, request: Any) -> Any:
        asked = requests.completion(await _body(request))
        adapter = self._adapter(asked.model)
        prompts = await asyncio.to_thread(_ids, asked.prompts, self._host.dialects[adapter])
        return await self._respond(request, asked, prompts, adapter, "prompt")

    def _adapter(self, name: str) -> str:
        if name not in self._models:
            known = ", ".join(self._models)
            raise ApiError(
                404, f"the model {name!r} does not exist; models here: {known}", param="model", code="model_not_found"
            )
        return self._models[name]

    async def _respond(
        self, request: Any, asked: Asked, prompts: Sequence[list[int]], adapter: str, field: str
    ) -> Any:
        """Draws the replies to the prompts, and returns them whole or as a stream."""
        from starlette.responses import JSONResponse

        asks: list[Request] = []
        for prompt in prompts:
            room = self._host.room(prompt)
            wanted = room if asked.max_tokens is None else asked.max_tokens
            if room < max(1, wanted):
                raise ApiError(
                    400,
                    f"a prompt of {len(prompt)} tokens and a reply of up to {max(1, wanted)} exceed the context of "
                    f"{room + len(prompt)} tokens; shorten {field} or max_tokens",
                    param=field,
                    code="context_length_exceeded",
                )
            asks += requests_of(prompt, asked.choices, wanted, asked.drawing, asked.seed, adapter, asked.logprobs)
        answer = Answer(asked.model, chats=bool(asked.messages))
        tokens = sum(map(len, prompts))
        if asked.stream:
            queue: asyncio.Queue[_Said] = asyncio.Queue()
            futures = self._host.submit(asks, lambda index, piece: queue.put_nowait((index, piece)))
            return _Events(self._chunks(asked, answer, tokens, queue, futures, adapter), futures)
        found = await _unless_gone(request, self._host.answers(asks))
        if found is None:
            return _gone()
        choices = [self._choice(asked, answer, i, each, adapter) for i, each in enumerate(found)]
        return JSONResponse(answer.whole(choices, answers.usage(tokens, found)))

    def _choice(
        self, asked: Asked, answer: Answer, index: int, generation: Generation, adapter: str
    ) -> dict[str, Any]:
        shown = self._logprobs(asked, generation)
        if not asked.messages:
            return answer.choice(index, generation.finish_reason, shown, text=generation.text)
        reply = replies.parse(generation.text, self._host.dialects[adapter].form, tools=bool(asked.tools))
        reason = answers.finish_reason(generation, reply)
        return answer.choice(index, reason, shown, message=answers.message(reply))

    def _logprobs(self, asked: Asked, generation: Generation) -> dict[str, Any] | None:
        if asked.logprobs is None:
            return None
        make = logprobs.of_chat if asked.messages else logprobs.of_completion
        return make(generation, self._host.dialects[""].tokenizer)

    async def _chunks(
        self,
        asked: Asked,
        answer: Answer,
        prompt_tokens: int,
        queue: asyncio.Queue[_Said],
        futures: Sequence[asyncio.Future[Generation]],
        adapter: str,
    ) -> AsyncIterator[bytes]:
        """Yields the events of a stream; log-probabilities come with the last chunk of each choice."""
        for index, future in enumerate(futures):
            future.add_done_callback(functools.partial(_note, queue, index))
        form, chats = self._host.dialects[adapter].form, bool(asked.messages)
        parts = [Deltas(form, tools=bool(asked.tools)) for _ in futures]
        shown = [0] * len(futures)
        done: list[Generation] = []
        if chats:
            for index in range(len(futures)):
                delta = {"role": "assistant", "content": ""}
                yield answer.chunk([answer.choice(index, None, None, delta=delta)])
        while len(done) < len(futures):
            index, said = await queue.get()
            if isinstance(said, BaseException):
                yield answers.event(_as_api_error(said).body)
                return
            if isinstance(said, Generation):
                done.append(said)
                given = self._logprobs(asked, said)
                if chats:
                    delta, reply = parts[index].end(said.text)
                    reason = answers.finish_reason(said, reply)
                    yield answer.chunk([answer.choice(index, reason, given, delta=delta)])
                else:
                    rest = said.text[shown[index] :]
                    yield answer.chunk([answer.choice(index, said.finish_reason, given, text=rest)])
            elif chats:
                if delta := parts[index].add(said):
                    yield answer.chunk([answer.choice(index, None, None, delta=delta)])
            elif said:
                shown[index] += len(said)
                yield answer.chunk([answer.choice(index, None, None, text=said)])
        if asked.with_usage:
            yield answer.chunk([], answers.usage(prompt_tokens, done))
        yield _DONE


def _ids(prompts: Sequence[str | tuple[int, ...]], dialect: Dialect) -> list[list[int]]:
    """Returns the ids of prompts; refuses ids that the tokenizer does not have."""
    tokenizer = dialect.tokenizer
    for each in (each for prompt in prompts if not isinstance(prompt, str) for each in prompt):
        if not 0 <= each < tokenizer.vocab_size:
            message = f"prompt: {each} is no id of the tokenizer, which has {tokenizer.vocab_size}"
            raise ApiError(400, message, param="prompt")
    return [tokenizer.text_prompt(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]


class _Events:
    """A response of server-sent events that stops when its client has gone."""

    def __init__(self, chunks: AsyncIterator[bytes], futures: Sequence[asyncio.Future[Generation]]) -> None:
        self._chunks, self._futures = chunks, futures

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.create_task(_disconnect(receive))
        sending = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in self._futures:
                future.cancel()
            gone.cancel()
            sending.cancel()
            await asyncio.gather(gone, sending, *self._futures, return_exceptions=True)
        if not sending.cancelled() and (error := sending.exception()):
            raise error

    async def _send(self, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _gone() -> Any:
    """Returns the response to a client that has gone: nobody reads it, and 499 is what nginx logs."""
    from starlette.responses import Response

    return Response(status_code=499)


def _note(queue: asyncio.Queue[_Said], index: int, future: asyncio.Future[Generation]) -> None:
    """Puts the result of a future that is done, or its error, on the queue."""
    if not future.cancelled():
        queue.put_nowait((index, future.exception() or future.result()))


async def _unless_gone(request: Any, work: Any) -> Any:
    """Returns the result of a coroutine; cancels it and returns None if the client goes away before."""
    gone = asyncio.create_task(_disconnect(request.receive))
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)


async def _disconnect(receive: Any) -> None:
    """Returns when the client has gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(request: Any) -> Any:
    """Returns the JSON value of a request's body, which is read only as far as it may be long."""
    too_large = ApiError(413, f"the body has more than {MOST_BYTES} bytes; send less", code="request_too_large")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MOST_BYTES:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise too_large
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({error}); send a JSON object") from None


def _check_token(request: Any, token: str) -> None:
    """Refuses a request without the token, in the time that a right one takes."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    if token and not (right and scheme.lower() == "bearer"):
        raise ApiError(401, "the API key is missing or wrong; send the server's token", code="invalid_api_key")


def _as_api_error(error: BaseException) -> ApiError:
    """Returns an error in OpenAI's shape; of a defect only the kind is told to the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):
        return ApiError(400, "the body is nested too deeply; send less")
    if isinstance(error, WorkError):
        return ApiError(500, str(error), kind="server_error")
    log.error("a request failed", exc_info=error)
    return ApiError(500, f"the server failed ({type(error).__name__})", kind="server_error")
