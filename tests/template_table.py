"""Conversations for comparing rendered chats with transformers, and what each template's assistant turns look like.

Imported by the reference interpreter too: the standard library alone.
"""

import re

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a town — today's, in °C & \"words\"",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "description": "its name"},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["town"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}


def says(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def ask(*contents):
    """User and assistant in turn."""
    return [says(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]


SYSTEM = says("system", "You are terse.")
CALLS = [says("user", "Weather in Ålesund?"), says("assistant", "", tool_calls=[call("get_weather", town="Ålesund")])]
ANSWERED = [*CALLS, says("tool", '{"t": 4}', name="get_weather"), says("assistant", "Four degrees.")]
THOUGHT = says("assistant", "It is 408.", reasoning_content="17 · 24 = 408.\n\nSo it is.")

# name -> (messages, tools, template variables)
CONVERSATIONS = {
    "one turn": (ask("What is the capital of France?", "Paris."), [], {}),
    "two turns": (ask("Hi", "Hello!", "Again", "Hello again!"), [], {}),
    "five turns": (ask("1", "one", "2", "two", "3", "three", "4", "four", "5", "five"), [], {}),
    "ends with the user": (ask("Hi", "Hello!", "And now?"), [], {}),
    "system": ([SYSTEM, *ask("Hi", "Hello.")], [], {}),
    "system, three turns": ([SYSTEM, *ask("a", "b", "c", "d", "e", "f")], [], {}),
    "long system": ([says("system", "Rules:\n\n1. Be kind.\n2. Be brief.\n" * 5), *ask("Hi", "Hello.")], [], {}),
    "unicode": (ask("Grüße 漢字 🙂‍↔️ Ω", "Cafe\u0301 naïve — ‘ok’ \u200b\u202e \U0001f1eb\U0001f1f7"), [], {}),
    "right to left": (ask("שלום عالم", "مرحبا שלום"), [], {}),
    "code": (ask("Write a loop.", "```python\nfor i in range(3):\n\tprint(i)  # <b>&amp;</b>\n```\nDone."), [], {}),
    "json": (ask('{"a": [1, 2.50, null]}', '{"b": {"c": "\\u00e9 \\\\ \\" /"}}'), [], {}),
    "numbers": (ask("123456789 + 1?", "123,456,790.0000001"), [], {}),
    "many lines": (ask("a\n\n\n\nb\r\nc", "x\n\n\ny\n \n z"), [], {}),
    "white space around": (ask("  spaced  ", "  said \t"), [], {}),
    "line breaks around": (ask("\n\nq\n", "\n\nanswer\n\n"), [], {}),
    "empty content": (ask("", ""), [], {}),
    "empty answer amid": (ask("a", "", "b", "c"), [], {}),
    "answer of spaces": (ask("a", "   "), [], {}),
    "tags in text": (ask("<tool_call> or <think>?", "Say <b>bold</b> and <s>."), [], {}),
    "jinja in text": (ask("{{ messages }} {% if x %}", "{% raw %} {{ bos_token }} {# no #}"), [], {}),
    "long answer": (ask("Go on.", "word " * 300 + "end"), [], {}),
    "two answers": ([says("user", "a"), says("assistant", "b"), says("assistant", "c")], [], {}),
    "tools, none called": (ask("Hi", "Hello."), [WEATHER], {}),
    "system and tools": ([SYSTEM, *ask("Hi", "Hello.")], [WEATHER, CLOCK], {}),
    "tool call": (CALLS, [WEATHER], {}),
    "tool call answered": (ANSWERED, [WEATHER], {}),
    "tool calls over turns": ([*ANSWERED, *CALLS, says("tool", "5"), says("assistant", "Five.")], [WEATHER], {}),
    "two tool calls": (
        [
            says("user", "Weather and time?"),
            says("assistant", "", tool_calls=[call("get_weather", town="Oslo", days=2), call("clock")]),
            says("tool", "cold"),
            says("tool", "late"),
            says("assistant", "Cold and late."),
        ],
        [WEATHER, CLOCK],
        {},
    ),
    "words and a tool call": (
        [says("user", "?"), says("assistant", "I look.", tool_calls=[call("clock")]), says("tool", "9"), THOUGHT],
        [CLOCK],
        {},
    ),
    "nested arguments": (
        [
            says("user", "?"),
            says("assistant", "", tool_calls=[call("clock", at={"x": [1, "é", None, True]}, s='a "q" \\ / <')]),
        ],
        [CLOCK],
        {},
    ),
    "reasoning": ([says("user", "17 times 24?"), THOUGHT], [], {}),
    "reasoning, two turns": ([says("user", "17 times 24?"), THOUGHT, *ask("And 2 times 2?", "4")], [], {}),
    "reasoning in every turn": (
        [says("user", "a"), THOUGHT, says("user", "b"), says("assistant", "c", reasoning_content="d")],
        [],
        {},
    ),
    "think block": (ask("17 times 24?", "<think>\n17 · 24\n</think>\n\n408"), [], {}),
    "think block, two turns": (ask("a", "<think>\nb\n</think>\n\nc", "d", "<think>\ne\n</think>\n\nf"), [], {}),
    "empty think block": (ask("a", "<think>\n\n</think>\n\nb"), [], {}),
    "reasoning and a tool call": (
        [
            says("user", "?"),
            says("assistant", "", reasoning_content="look", tool_calls=[call("clock")]),
            says("tool", "9"),
            says("assistant", "Nine.", reasoning_content="so"),
        ],
        [CLOCK],
        {},
    ),
    "no thinking": (ask("a", "b"), [], {"enable_thinking": False}),
    "no thinking, two turns": (ask("a", "b", "c", "d"), [], {"enable_thinking": False}),
    "thinking": (ask("a", "b"), [], {"enable_thinking": True}),
    "a date": (ask("a", "b"), [], {"date_string": "1 Apr 2025"}),
    "tools beside the system": (
        [SYSTEM, *ask("Hi", "Hello.")],
        [WEATHER],
        {"tools_in_user_message": False, "date_string": "2 May 2025"},
    ),
}

# How an assistant turn is written, as a pattern whose group is what the assistant generates and what closes it.
CHATML = r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)"
NO_THINKING = r"<\|im_start\|>assistant\n(?:<think>\n\n</think>\n\n)?(.*?<\|im_end\|>)"
HEADERS = r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)"


def spoken(text, template, variables):
    """The (begin, end) of every assistant turn in a rendered chat whose messages spell no special token."""
    pattern = HEADERS if template.startswith("llama") else CHATML
    if variables.get("enable_thinking") is False and template.startswith("qwen3"):
        pattern = NO_THINKING
    return [match.span(1) for match in re.finditer(pattern, text, re.DOTALL)]
