"""A reply is read in the form in which its template writes replies, whole and piece by piece alike."""

import json

import chat_checks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_small import TEXTS

from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.serving import formats, replies
from msm_jax.serving.answers import Deltas
from msm_jax.serving.formats import CallFormat, ReplyFormat
from msm_jax.serving.replies import Call, Reply

HERMES = ReplyFormat(False, True, CallFormat("<tool_call>", "</tool_call>", "name", "arguments"))
THINKING = ReplyFormat(True, True, HERMES.calls)
BARE = ReplyFormat(False, True, CallFormat("", "", "name", "parameters"))
LISTED = ReplyFormat(False, True, CallFormat("[", "]", "name", "arguments"))
WEATHER = '{"name": "weather", "arguments": {"town": "Bergen"}}'
CALLED = Call("weather", {"town": "Bergen"})

# Llama 3.1's form of a call, and one that is not JSON.
BARE_SOURCE = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
XML_SOURCE = BARE_SOURCE.replace(
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}', "<function={{ f.name }}></function>"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_files(chat_checks.small_files(chat_checks.byte_level(TEXTS), "qwen2_5"))


def source(name: str) -> str:
    return (chat_checks.TEMPLATES / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (ChatTemplate(source("qwen2_5")), HERMES),
        (ChatTemplate(source("qwen3")), HERMES),
        (ChatTemplate(source("qwen3"), {"enable_thinking": False}), HERMES),
        (ChatTemplate(source("smollm2")), ReplyFormat()),
        (ChatTemplate(source("llama_like")), ReplyFormat()),
        (ChatTemplate(BARE_SOURCE), BARE),
        (ChatTemplate(XML_SOURCE), ReplyFormat(False, True, None)),
        (ChatTemplate(source("smollm2") + "<think>\n"), ReplyFormat(opens_thinking=True)),
        (ChatTemplate(), ReplyFormat()),
    ],
    ids=["qwen2.5", "qwen3", "qwen3 without thinking", "smollm2", "llama", "bare", "xml", "opens thinking", "ours"],
)
def test_the_form_of_replies_is_read_from_the_template(template, expected, tokenizer):
    assert formats.of_template(template, tokenizer) == expected


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, "Just words. ", Reply("", "Just words. ")),
        (HERMES, f"<tool_call>\n{WEATHER}\n</tool_call>", Reply("", "", (CALLED,))),
        (HERMES, f"Let me see.\n<tool_call>\n{WEATHER}\n</tool_call>", Reply("", "Let me see.", (CALLED,))),
        (
            HERMES,
            f"<think>\nBergen.\n</think>\n\n<tool_call>{WEATHER}</tool_call>\n<tool_call>{WEATHER}</tool_call>",
            Reply("Bergen.", "", (CALLED, CALLED)),
        ),
        (HERMES, f"<tool_call>\n{WEATHER}\n</tool_", Reply("", "", (CALLED,))),
        (HERMES, "<tool_call>\n{not json}\n</tool_call>", Reply("", "<tool_call>\n{not json}\n</tool_call>")),
        (HERMES, '<tool_call>{"name": 3}</tool_call>', Reply("", '<tool_call>{"name": 3}</tool_call>')),
        (HERMES, '<tool_call>{"name": "f"}</tool_call>', Reply("", "", (Call("f", {}),))),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', Reply("", "", (Call("f", {"a": 1}),))),
        (HERMES, f"<tool_call>x <tool_call>{WEATHER}</tool_call>", Reply("", "<tool_call>x", (CALLED,))),
        (HERMES, "<think>cut off", Reply("cut off")),
        (HERMES, "a <think> b", Reply("", "a <think> b")),
        (THINKING, "so\n</think>\n\nYes.", Reply("so", "Yes.")),
        (THINKING, "<think>so</think>Yes.", Reply("so", "Yes.")),
        (THINKING, "cut", Reply("cut")),
        (BARE, '{"name": "f", "parameters": {"a": 1}}', Reply("", "", (Call("f", {"a": 1}),))),
        (BARE, '{"name": "f"}; {"name": "g"}', Reply("", "", (Call("f", {}), Call("g", {})))),
        (BARE, '{"a": 1}', Reply("", '{"a": 1}')),
        (LISTED, f"[{WEATHER}, {WEATHER}]", Reply("", "", (CALLED, CALLED))),
        (LISTED, "[]", Reply("", "[]")),
    ],
)
def test_a_reply_is_read(form, text, expected):
    assert replies.parse(text, form, tools=True) == expected


def test_nothing_is_a_call_without_tools():
    text = f"<tool_call>{WEATHER}</tool_call>"
    assert replies.parse(text, HERMES, tools=False) == Reply("", text)


PIECES = st.sampled_from([
    "<think>", "</think>", "<tool_call>", "</tool_call>", "\n", " ", "word", "<", "{", "}", "[", "]", "</", WEATHER,
    f"<tool_call>\n{WEATHER}\n</tool_call>", '{"name": "f"}',
])


FORMS = st.sampled_from([HERMES, THINKING, BARE, LISTED])


@given(st.lists(PIECES, max_size=8).map("".join), st.data(), FORMS, st.booleans())
def test_the_pieces_of_a_stream_add_up_to_the_whole_reply(text, data, form, tools):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    deltas = Deltas(form, tools=tools)
    sent = [deltas.add(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    last, reply = deltas.end(text)
    sent.append(last)
    assert reply == replies.parse(text, form, tools=tools)
    assert "".join(delta.get("reasoning_content", "") for delta in sent) == reply.reasoning
    assert "".join(delta.get("content", "") for delta in sent) == reply.content
    calls = [call for delta in sent for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == list(range(len(reply.calls)))
    given = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]
    assert given == [(call.name, call.arguments) for call in reply.calls]
