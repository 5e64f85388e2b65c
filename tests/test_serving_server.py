"""The OpenAI protocol over a checkpoint: its own client is answered, and bad requests are refused in its shape."""

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving_small as small

pytestmark = pytest.mark.inspect
openai = pytest.importorskip("openai", reason="`make inspect` makes an environment with it")
httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

HI = {"model": "tiny", "messages": small.user("hi"), "max_tokens": 4}
CALL = '\n{{"name": "{}", "arguments": {}}}\n'
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server of the checkpoint "tiny", which has Qwen2.5's template."""
    run = small.checkpoint(tmp_path_factory.mktemp("server") / "tiny")
    with small.serving(f"--checkpoint={run}") as (base, _):
        yield base


@pytest.fixture
def client(url: str) -> Any:
    """The client of the openai package."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as made:
        yield made


def test_a_chat_is_answered_whole_and_as_a_stream_with_the_same_text(client):
    asked = {"model": "tiny", "messages": small.user("Hi", "Hello!", "Which lamp?"), "max_tokens": 20, "seed": 3}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert 0 < whole.usage.completion_tokens <= 20 < whole.usage.prompt_tokens
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason


def test_a_seed_draws_the_same_replies_and_no_seed_draws_others(client):
    def texts(**more: Any) -> list[str]:
        answer = client.chat.completions.create(model="tiny", messages=small.user("Hi"), max_tokens=12, **more)
        return [choice.message.content for choice in answer.choices]

    assert texts(n=3, seed=7) == texts(n=3, seed=7)
    assert texts(n=3, seed=7)[1:] == texts(n=2, seed=8), "choice i has the seed + i"
    assert len({*texts(n=3), *texts(n=3)}) == 6


def test_completions_continue_texts_and_ids(client):
    asked = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    text = client.completions.create(prompt="The old lamp", **asked)
    both = client.completions.create(prompt=["The old lamp", "Which kite"], n=2, **asked)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text == text.choices[0].text
    streamed = client.completions.create(prompt="The old lamp", stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text.choices[0].text
    assert client.completions.create(prompt=[[5, 6, 7]], **asked).usage.prompt_tokens == 3


def test_a_stop_string_ends_a_reply_before_it(client):
    asked = {"model": "tiny", "messages": small.user("Hi"), "max_tokens": 40, "seed": 1}
    text = client.chat.completions.create(**asked).choices[0].message.content
    stop = text[2:4]
    for stream in (False, True):
        found = client.chat.completions.create(**asked, stop=[stop], stream=stream)
        choices = [chunk.choices[0] for chunk in found] if stream else found.choices
        said = "".join((choice.delta if stream else choice.message).content or "" for choice in choices)
        assert (said, choices[-1].finish_reason) == (text[: text.index(stop)], "stop")


def test_log_probabilities_are_those_of_the_model(client):
    asked = {"model": "tiny", "messages": small.user("Hi"), "max_tokens": 6, "temperature": 0}
    choice = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert "".join(each.token for each in content) == choice.message.content
    for each in content:
        top = [other.logprob for other in each.top_logprobs]
        assert len(top) == 3 and top == sorted(top, reverse=True)
        assert (each.logprob, each.token) == (top[0], each.top_logprobs[0].token), "the likeliest was taken"
        assert bytes(each.bytes or ()).decode() in (each.token, "")
    streamed = list(client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True))
    assert streamed[-1].choices[0].logprobs.content == content
    assert client.chat.completions.create(**asked, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    asked = {"model": "tiny", "prompt": "The old lamp", "max_tokens": 2, "logprobs": 2}
    texts = [client.completions.create(**asked, seed=seed).choices[0] for seed in range(12)]
    for text in texts:
        found = text.logprobs
        assert all(logprob < 0 for logprob in found.token_logprobs)
        assert len(found.top_logprobs) == len(found.tokens) == len(found.text_offset)
    # A reply shows no special tokens, and several tokens may make up one character.
    plain = [text for text in texts if not any("\ufffd" in each or "<|" in each for each in text.logprobs.tokens)]
    assert len(plain) > 2
    assert all("".join(text.logprobs.tokens).strip() == text.text.strip() for text in plain)


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'other' does not exist; models here: tiny"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b"{", "the body is not JSON"),
        (400, b"[" * 100_000, "the body is not JSON"),
        (400, b"\xff\xfe", "the body is not JSON"),
        (400, [], "the body is a list, not a JSON object"),
        (404, {**HI, "model": "gpt"}, "models here: tiny"),
        (400, {**HI, "temprature": 1}, "did you mean temperature"),
        (400, {**HI, "temperature": "hot"}, 'temperature is "hot"'),
        (400, {**HI, "temperature": -1}, "must be a number from 0 to 2"),
        (400, {**HI, "top_p": 0}, "top_p = 0.0"),
        (400, {**HI, "n": 0}, "n is 0"),
        (400, {**HI, "n": 10**6}, "at most 128"),
        (400, {**HI, "max_tokens": 10**400}, "exceed the context of 1024 tokens"),
        (400, {**HI, "max_tokens": 1.5}, "max_tokens is 1.5"),
        (400, {**HI, "stop": [""]}, "stop is"),
        (400, {**HI, "stream": 1}, "must be true or false"),
        (400, {**HI, "frequency_penalty": 0.5}, "frequency_penalty = 0.5 is not supported"),
        (400, {**HI, "response_format": {"type": "json_object"}}, "response_format"),
        (400, {**HI, "tool_choice": "required"}, "tool_choice"),
        (400, {**HI, "tools": [{"type": "function"}]}, 'field "tools[0].name" is null'),
        (400, {**HI, "tools": [TOOL], "messages": "hi"}, "messages must be a non-empty list"),
        (400, {**HI, "messages": []}, "messages must be a non-empty list"),
        (400, {**HI, "messages": [{"role": "cat", "content": "a"}]}, 'messages[0].role is "cat"'),
        (400, {**HI, "messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (400, {**HI, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 'only "text" is supported'),
        (400, {**HI, "messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
        (400, {**HI, "messages": small.user("lamp " * 1200)}, "exceed the context of 1024 tokens"),
    ],
)
def test_a_bad_request_is_refused_by_name_in_the_shape_of_openai(url, status, body, message):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{url}/chat/completions", content=sent, timeout=300)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert message in error["message"] and "\n" not in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([5, -1], "-1 is no id"),
        ([10**9], "is no id"),
        ([], "lists 0 prompts"),
        (["a"] * 1025, "give 1 to 1024"),
        ({"a": 1}, "prompt is"),
        (None, "prompt is"),
    ],
)
def test_a_bad_prompt_is_refused(url, prompt, message):
    answer = httpx.post(f"{url}/completions", json={"model": "tiny", "prompt": prompt})
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("path", ["/embeddings", "/chat/completion", "/../etc"])
def test_an_unknown_path_is_refused_in_the_shape_of_openai(url, path):
    answer = httpx.post(f"{url}{path}", json=HI)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
    assert httpx.get(f"{url}/chat/completions").status_code == 405


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in pieces"])
def test_a_body_of_100_mb_is_refused_and_the_server_goes_on(url, told, client):
    size = 100 << 20
    content = b"x" * size if told else (b"x" * (1 << 20) for _ in range(100))
    answer = httpx.post(f"{url}/chat/completions", content=content, timeout=300)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert client.chat.completions.create(**HI).usage.completion_tokens > 0


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server of "caller", which thinks, says a word and calls two tools."""
    pieces = ("<think>", "Two calls.", "</think>", "\n\nLook:", "\n<tool_call>", CALL.format("clock", "{}"),
              "</tool_call>", "<tool_call>", CALL.format("clock", '{"zone": "UTC"}'), "</tool_call>\n")
    run = small.policy(tmp_path_factory.mktemp("caller") / "caller", *pieces)
    with small.serving(f"--checkpoint={run}") as (base, _):
        yield base


def test_calls_and_thinking_arrive_whole_and_as_a_stream(caller):
    asked = {"model": "caller", "messages": small.user("What time is it?"), "tools": [TOOL], "temperature": 0}
    with openai.OpenAI(base_url=caller, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**asked).choices[0]
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
        unasked = client.chat.completions.create(**{**asked, "tool_choice": "none"}).choices[0]
    expected = [("clock", "{}"), ("clock", '{"zone": "UTC"}')]
    assert (whole.message.reasoning_content, whole.message.content, whole.finish_reason) == (
        "Two calls.", "Look:", "tool_calls"
    )
    assert [(call.function.name, call.function.arguments) for call in whole.message.tool_calls] == expected
    deltas = [chunk.delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Two calls."
    assert "".join(delta.content or "" for delta in deltas) == "Look:"
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == expected
    assert [call.index for call in calls] == [0, 1] and len({call.id for call in calls}) == 2
    assert chunks[-1].finish_reason == "tool_calls"
    assert (unasked.message.tool_calls, unasked.finish_reason) == (None, "stop")


def test_a_conversation_with_calls_goes_on(caller):
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    chat = [
        {"role": "developer", "content": "Be brief."},
        *small.user("What time is it?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
    ]
    with openai.OpenAI(base_url=caller, api_key="none", max_retries=0) as client:
        found = client.chat.completions.create(model="caller", messages=chat, tools=[TOOL], max_tokens=2)
    assert found.choices[0].finish_reason == "length"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server on two devices that requires a token: a base without a template, adapters with one."""
    folder = tmp_path_factory.mktemp("guarded")
    run = small.checkpoint(folder / "bare", template="", positions=8192)
    flags = [
        f"--adapter={name}={small.adapter(folder / name, run, seed, template)}"
        for name, seed, template in (("kind", 1, "qwen2_5"), ("mild", 2, "qwen2_5"), ("terse", 3, "smollm2"))
    ]
    flags += [f"--checkpoint={run}", "--tensor=2", "--slots=4", "--cache_mib=1"]
    with small.serving(*flags, environment={"MSM_JAX_SERVE_TOKEN": "right"}) as (base, _):
        yield base


@pytest.fixture
def allowed(guarded: str) -> Any:
    """A client that has the token."""
    with openai.OpenAI(base_url=guarded, api_key="right", max_retries=0, timeout=300) as made:
        yield made


def test_adapters_are_models_beside_the_base_with_templates_of_their_own(allowed):
    assert [model.id for model in allowed.models.list()] == ["bare", "kind", "mild", "terse"]
    asked = {"messages": small.user("Hi"), "max_tokens": 12, "temperature": 0}
    found = {name: allowed.chat.completions.create(model=name, **asked) for name in ("kind", "mild", "terse")}
    assert len({answer.choices[0].message.content for answer in found.values()}) == 3
    assert found["kind"].usage.prompt_tokens == found["mild"].usage.prompt_tokens
    assert found["kind"].usage.prompt_tokens != found["terse"].usage.prompt_tokens, "its template is another"


def test_without_a_template_texts_are_continued_and_chats_refused(allowed):
    assert allowed.completions.create(model="bare", prompt="The old", max_tokens=2).usage.completion_tokens == 2
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        allowed.chat.completions.create(**{**HI, "model": "bare"})


def test_what_exceeds_the_memory_for_requests_is_refused_by_name(allowed):
    with pytest.raises(openai.BadRequestError, match="exceed the context of 3969 tokens"):
        allowed.completions.create(model="bare", prompt="a", max_tokens=5000)
    chat = allowed.chat.completions.create(model="kind", messages=small.user("Hi"), stop=list("abcdefghij "), seed=1)
    assert chat.choices[0].finish_reason in ("stop", "length"), "without a limit of its own, all that fits"


def test_tools_need_a_template_that_writes_them(allowed):
    with pytest.raises(openai.BadRequestError, match="the chat template does not write tools"):
        allowed.chat.completions.create(**{**HI, "model": "terse", "tools": [TOOL]})


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}])
def test_a_request_without_the_token_is_refused(guarded, headers):
    refused = httpx.post(f"{guarded}/chat/completions", headers=headers, json=HI, timeout=300)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def refusal(*flags: str) -> str:
    """Returns the one line with which the command ends before it loads a model."""
    process = subprocess.run(
        small.command(*flags), capture_output=True, text=True, env=small.environment(), cwd=small.ROOT, timeout=300
    )
    assert (process.returncode, process.stdout) == (2, ""), process.stderr
    assert process.stderr.count("\n") == 1
    return process.stderr


def test_what_cannot_be_served_is_refused_before_the_model_is_loaded(tmp_path: Path):
    run = small.checkpoint(tmp_path / "tiny")
    at = f"--checkpoint={run}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert re.search(f"{port}: Address already in use; choose another port", refusal(at, f"--port={port}"))
    assert "set a token in MSM_JAX_SERVE_TOKEN" in refusal(at, "--host=0.0.0.0")
    assert "the checkpoint has this name too" in refusal(at, "--adapter=tiny=x")


def test_ctrl_c_lets_requests_end_and_takes_no_more(tmp_path: Path):
    run = small.checkpoint(tmp_path / "tiny")
    process = small.start(f"--checkpoint={run}")
    base = small.url_of(process)
    asked = {**HI, "max_tokens": 300, "stream": True, "seed": 1}
    with httpx.stream("POST", f"{base}/chat/completions", json=asked, timeout=300) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        process.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert process.communicate(timeout=300)[0] == "stopped\n"
    assert process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/models")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_in_the_background_of_a_shell_stops_on_both_signals(tmp_path: Path, number: signal.Signals):
    """Such a shell starts it with SIGINT ignored. The signal comes as soon as the server says that it serves."""
    served = small.command(f"--checkpoint={small.checkpoint(tmp_path / 'tiny')}", "--port=0")
    process = subprocess.Popen(
        ["bash", "-c", "trap '' INT; exec \"$@\"", "bash", *served],
        stdout=subprocess.PIPE, text=True, env=small.environment(), cwd=small.ROOT,
    )
    small.url_of(process)
    process.send_signal(number)
    assert process.communicate(timeout=300)[0] == "stopped\n"
    assert process.returncode == 0
