"""Chats in the forms of common data sets: tools, calls, thinking, parts, system prompts."""

import json

import pytest

from msm_jax.data import sources
from msm_jax.errors import InputError

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, None]}}}


@pytest.fixture
def read(tmp_path):
    def read(**record):
        file = tmp_path / "chats.jsonl"
        file.write_text(json.dumps(record))
        return next(sources.iter_chats(str(file)))

    return read


def test_tools_and_calls(read):
    tool = {"type": "function", "function": {"name": "f"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    messages = [USER, calling, {"role": "tool", "content": ""}, ANSWER]
    chat = read(messages=messages, tools=[tool], meta={"a": 1}, source="s")
    assert chat.tools == (tool,)
    assert chat.meta == {"a": 1, "source": "s"}
    assert chat.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert chat.messages[2] == {"role": "tool", "content": ""}
    # As APIs and Parquet files have them: arguments and tools as JSON text, a call without its wrapper.
    written = {"name": "f", "arguments": '{"x": [1, null]}'}
    for call in (written, {"function": written}, {**CALL, "function": written}):
        again = read(messages=[USER, {"role": "assistant", "tool_calls": [call]}], tools=json.dumps([tool]))
        assert again.messages[1]["tool_calls"][0]["function"] == CALL["function"]
        assert again.tools == (tool,)
    answer = {"role": "tool", "content": "x", "name": "f", "tool_call_id": "c1"}
    assert read(messages=[USER, answer, ANSWER]).messages[1] == answer


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_has_one_name(read, name):
    found = read(messages=[USER, {**ANSWER, name: "hm"}]).messages[1]
    assert found == {**ANSWER, "reasoning_content": "hm"}
    assert read(messages=[USER, {**ANSWER, name: None}]).messages[1] == ANSWER


def test_system_prompts(read, tmp_path):
    system = {"role": "system", "content": "s"}
    assert read(messages=[USER, ANSWER], system="s").messages == (system, USER, ANSWER)
    assert read(messages=[system, USER, ANSWER], system=None).messages == (system, USER, ANSWER)
    developer = {"role": "developer", "content": "s"}
    assert read(messages=[developer, USER, ANSWER]).messages[0] == developer
    for record, problem in (
        ({"messages": [system, USER, ANSWER], "system": "s"}, "[0]\" is a second system message; keep one"),
        ({"messages": [system, USER, ANSWER, system]}, "[3]\" is a second system message; keep one"),
        ({"messages": [USER, system, ANSWER]}, "[1]\" is a system message; put it first"),
    ):
        with pytest.raises(InputError) as refusal:
            read(**record)
        assert str(refusal.value) == f'{tmp_path / "chats.jsonl"}:1: field "messages{problem}'


def test_parts_of_text_are_joined(read):
    parts = [{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]
    assert read(messages=[{"role": "user", "content": parts}, ANSWER]).messages[0]["content"] == "q?"


BAD = {
    'field "messages[1].tool_calls" is a string': [USER, {**ANSWER, "tool_calls": "f()"}],
    'field "messages[1].tool_calls[0]" must be': [USER, {**ANSWER, "tool_calls": ["f"]}],
    'field "messages[1].tool_calls[0].function.name" is null': [USER, {**ANSWER, "tool_calls": [{"function": {}}]}],
    'field "messages[1].tool_calls[0].function.arguments" is not JSON': [
        USER,
        {**ANSWER, "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]},
    ],
    'field "messages[1].tool_calls[0].arguments" is a list': [
        USER,
        {**ANSWER, "tool_calls": [{"name": "f", "arguments": "[1]"}]},
    ],
    'field "messages[0].content[0].type" is "image"': [{"role": "user", "content": [{"type": "image"}]}, ANSWER],
    'field "messages[0].content[0].text" is not a string': [{"role": "user", "content": [{"type": "text"}]}, ANSWER],
    'field "messages[1].reasoning" is a number': [USER, {**ANSWER, "reasoning": 3}],
    'field "messages[1].content" is empty': [USER, {"role": "assistant", "content": "", "tool_calls": []}],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_field_is_named(read, message):
    with pytest.raises(InputError) as refusal:
        read(messages=BAD[message])
    assert message in str(refusal.value)


def test_bad_tools_are_named(read):
    cases = {
        'field "tools" is not JSON': "[",
        'field "tools" is a list': [1],
        'field "tools" is an object': {},
        'field "tools[0].function" is a string': [{"function": "f"}],
        'field "tools[1].function.name" is null': [{"name": "f"}, {"function": {}}],
    }
    for message, tools in cases.items():
        with pytest.raises(InputError) as refusal:
            read(messages=[USER, ANSWER], tools=tools)
        assert message in str(refusal.value)
