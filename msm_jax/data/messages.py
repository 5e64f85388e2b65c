"""The messages of a chat record, checked field by field, in the forms that common data sets use.

A record is `{"messages": [...], "system"?, "tools"?}`. A message is `{"role", "content"}` with a role of `ROLES`;
content is a string or a list of `{"type": "text", "text"}` parts. An assistant message may have `tool_calls` (then its
content may be empty, null or missing), and its thinking in `reasoning_content`, `reasoning` or `thinking`. A `tool`
message answers a call; it may have `name` and `tool_call_id`. The system prompt is the first message, with the role
"system" or "developer", or the field "system" beside the messages.
"""

import json
from collections.abc import Sequence
from typing import Any

from msm_jax.errors import InputError

ROLES = ("system", "developer", "user", "assistant", "tool")
# The fields of a record that `read` reads.
FIELDS = ("messages", "system", "tools")
_THINKING = ("reasoning_content", "reasoning", "thinking")
_Json = dict[str, Any]


def read(record: _Json, where: str) -> tuple[tuple[_Json, ...], tuple[_Json, ...]]:
    """Returns the messages and the tools of a chat record; `where` is "file:line".

    Messages hold "role" and "content", and "tool_calls" (`[{"id"?, "type": "function", "function": {"name",
    "arguments": object}}]`), "reasoning_content", "name" and "tool_call_id" where they are given.

    Raises:
      InputError: names the first field that is wrong.
    """
    messages = [*read_system(record, where)]
    messages += read_list(record["messages"], where, "messages", messages)
    if not any(m["role"] == "assistant" for m in messages):
        raise InputError(f'{where}: field "messages" has no assistant turn; add one or remove the line')
    return tuple(messages), read_tools(record.get("tools"), where)


def read_system(record: _Json, where: str) -> list[_Json]:
    """Returns the message that the field "system" of a record stands for; [] where it has none."""
    if record.get("system") is None:
        return []
    return [{"role": "system", "content": checked_text(record["system"], where, "system")}]


def read_list(value: object, where: str, field: str, before: Sequence[_Json] = ()) -> list[_Json]:
    """Returns the messages of a list, as `read` does; `before` are those of the chat ahead of them.

    Raises:
      InputError: names the first field that is wrong.
    """
    if not isinstance(value, list) or not value:
        raise InputError(f'{where}: field "{field}" must be a non-empty list of {{"role", "content"}}')
    messages = list(before)
    for i, message in enumerate(value):
        messages.append(_message(message, where, f"{field}[{i}]", messages))
    return messages[len(before) :]


def _message(message: object, where: str, field: str, before: list[_Json]) -> _Json:
    if not isinstance(message, dict):
        raise InputError(f'{where}: field "{field}" must be an object with "role" and "content"')
    if "role" not in message:
        raise InputError(f'{where}: field "{field}.role" is missing; add it')
    role = message["role"]
    if role not in ROLES:
        raise InputError(
            f'{where}: field "{field}.role" is {json.dumps(role)}; use one of {", ".join(ROLES)}'
        )
    calls = read_calls(message.get("tool_calls"), where, field) if role == "assistant" else []
    if "content" not in message and not calls:
        raise InputError(f'{where}: field "{field}.content" is missing; add it')
    if role in ("system", "developer") and before:
        again = any(m["role"] in ("system", "developer") for m in before)
        problem = "is a second system message; keep one" if again else "is a system message; put it first"
        raise InputError(f'{where}: field "{field}" {problem}')
    may_be_empty = bool(calls) or role == "tool"
    content = read_content(message.get("content"), where, f"{field}.content", may_be_empty=may_be_empty)
    read: _Json = {"role": role, "content": content}
    if calls:
        read["tool_calls"] = calls
    if role == "assistant":
        thinking = next((name for name in _THINKING if message.get(name)), None)
        if thinking is not None:
            read["reasoning_content"] = checked_text(message[thinking], where, f"{field}.{thinking}")
    for name in ("name", "tool_call_id"):
        if role == "tool" and message.get(name) is not None:
            read[name] = checked_text(message[name], where, f"{field}.{name}")
    return read


def read_content(value: object, where: str, field: str, *, may_be_empty: bool) -> str:
    """Returns the text of a content, with its parts joined; refuses parts that are not text, and blank text unless
    `may_be_empty`."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        parts = []
        for i, part in enumerate(value):
            if part.get("type") != "text":
                raise InputError(
                    f'{where}: field "{field}[{i}].type" is {json.dumps(part.get("type"))}; only "text" is supported'
                )
            if not isinstance(part.get("text"), str):
                raise InputError(f'{where}: field "{field}[{i}].text" is not a string; quote it')
            parts.append(part["text"])
        value = "".join(parts)
    if may_be_empty and (value is None or (isinstance(value, str) and not value.strip())):
        return value or ""
    return checked_text(value, where, field)


def read_calls(value: object, where: str, field: str) -> list[_Json]:
    """Returns tool calls with their arguments as objects, as templates expect them; APIs give them as JSON text."""
    if value is None or value == []:
        return []
    if not isinstance(value, list):
        raise InputError(f'{where}: field "{field}.tool_calls" is {json_type(value)}, not a list; write it as one')
    calls = []
    for i, call in enumerate(value):
        name = f"{field}.tool_calls[{i}]"
        if not isinstance(call, dict) or not isinstance(call.get("function", call), dict):
            raise InputError(f'{where}: field "{name}" must be an object with "function": {{"name", "arguments"}}')
        inside = "function." if "function" in call else ""
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError) as e:
                raise InputError(
                    f'{where}: field "{name}.{inside}arguments" is not JSON ({e}); write the arguments as an object'
                ) from None
        if not isinstance(arguments, dict):
            kind = json_type(arguments)
            raise InputError(f'{where}: field "{name}.{inside}arguments" is {kind}, not an object; write it as one')
        called = checked_text(function.get("name"), where, f"{name}.{inside}name")
        kept = {key: call[key] for key in ("id",) if isinstance(call.get(key), str)}
        calls.append({**kept, "type": "function", "function": {"name": called, "arguments": arguments}})
    return calls


def read_tools(value: object, where: str) -> tuple[_Json, ...]:
    """Returns tool descriptions, which are JSON schemas; some data sets hold the whole list as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except (ValueError, RecursionError) as e:
            raise InputError(f'{where}: field "tools" is not JSON ({e}); write it as a list of objects') from None
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise InputError(f'{where}: field "tools" is {json_type(value)}, not a list of objects; write it as one')
    for i, tool in enumerate(value):
        function = tool.get("function", tool)
        if not isinstance(function, dict):
            raise InputError(f'{where}: field "tools[{i}].function" is {json_type(function)}, not an object')
        inside = "function." if "function" in tool else ""
        checked_text(function.get("name"), where, f"tools[{i}].{inside}name")
    return tuple(value)


def checked_text(value: object, where: str, field: str) -> str:
    """Returns the value; refuses one that is not a string, is blank, or holds half of a surrogate pair."""
    if not isinstance(value, str):
        raise InputError(f'{where}: field "{field}" is {json_type(value)}, not a string; quote it')
    if not value.strip():
        raise InputError(f'{where}: field "{field}" is empty; remove the line or fill it in')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(
            f'{where}: field "{field}" holds half of a surrogate pair, which is not a character; remove it'
        ) from None
    return value


def json_type(value: object) -> str:
    """Returns the type of a JSON value in words, for errors."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
