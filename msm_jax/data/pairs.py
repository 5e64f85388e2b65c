"""Pairs of answers to one prompt, of which one is preferred: records, and their token ids.

A record is `{"messages" or "prompt", "chosen", "rejected", "system"?, "tools"?, "meta"?}`. The forms are those of TRL:

* The prompt is a list of messages, and an answer a list of the messages after it, or the text of one assistant turn.
* The prompt is a text, and the answers are texts that continue it.
* There is no list of messages as the prompt, and each answer is a whole conversation. The prompt is what the two have
  in common at their beginning.

With a prompt of messages, an answer may repeat the prompt ahead of its own messages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msm_jax.data import messages as messages_lib
from msm_jax.data.config import ChatConfig
from msm_jax.data.encoding import encode_answer
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

# The fields of a record that `read` reads.
FIELDS = ("messages", "prompt", "chosen", "rejected", "system", "tools")
_ANSWERS = ("chosen", "rejected")
_Json = dict[str, Any]
_Encoded = tuple[list[int], list[bool]]


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers.

    Attributes:
      prompt: messages, or a text.
      chosen, rejected: the messages after the prompt, or the text.
      tools: descriptions of tools.
    """

    prompt: tuple[_Json, ...] | str
    chosen: tuple[_Json, ...] | str
    rejected: tuple[_Json, ...] | str
    tools: tuple[_Json, ...] = ()

    @property
    def content(self) -> str:
        """The prompt as one text, by which pairs are held out: all pairs of a prompt are held out together."""
        return self.prompt if isinstance(self.prompt, str) else json.dumps([*self.prompt, *self.tools])


def read(record: _Json, where: str) -> Pair:
    """Returns the pair of a record; `where` is "file:line".

    Raises:
      InputError: names the first field that is wrong: a missing or empty one, equal answers, or answers that belong to
        different prompts.
    """
    given = {name: record.get(name) for name in FIELDS}
    for name in _ANSWERS:
        if given[name] is None:
            raise InputError(f'{where}: field "{name}" is missing; add it')
    if given["messages"] is not None and given["prompt"] is not None:
        raise InputError(f'{where}: fields "messages" and "prompt" are both given; remove one')
    name = "prompt" if given["messages"] is None else "messages"
    prompt, answers = given[name], [given[each] for each in _ANSWERS]
    whole = all(isinstance(answer, list) for answer in answers)
    if isinstance(prompt, list):
        pair = _explicit(record, prompt, name, where)
    elif whole:
        # As in TRL, a text beside whole conversations only repeats what they begin with.
        pair = _implicit(record, where)
    elif prompt is None:
        raise InputError(f'{where}: field "messages" is missing; add the prompt of the answers')
    else:
        text = messages_lib.checked_text(prompt, where, name)
        chosen, rejected = (messages_lib.checked_text(record[each], where, each) for each in _ANSWERS)
        pair = Pair(text, chosen, rejected)
    if pair.chosen == pair.rejected:
        raise InputError(f'{where}: field "rejected" is the same as "chosen"; remove the line or correct an answer')
    return pair


def _explicit(record: _Json, given: list[Any], name: str, where: str) -> Pair:
    system = messages_lib.read_system(record, where)
    prompt = [*system, *messages_lib.read_list(given, where, name, system)]
    if prompt[-1]["role"] not in ("user", "tool"):
        raise InputError(
            f'{where}: field "{name}" ends with a message of role {prompt[-1]["role"]}; end it with the message that '
            "is answered, from the user or a tool"
        )
    answers: list[tuple[_Json, ...]] = []
    for field in _ANSWERS:
        value = record[field]
        if isinstance(value, str):
            answers.append(({"role": "assistant", "content": messages_lib.checked_text(value, where, field)},))
            continue
        repeats = isinstance(value, list) and value[: len(given)] == given
        if not repeats and isinstance(value, list) and value and _role(value[0]) in ("system", "developer", "user"):
            raise InputError(
                f'{where}: field "{field}" is a conversation with another prompt than "{name}"; give the messages '
                "after the prompt"
            )
        messages = messages_lib.read_list(value, where, field, () if repeats else prompt)
        answers.append(tuple(_answer(messages[len(given) :] if repeats else messages, where, field)))
    return Pair(tuple(prompt), answers[0], answers[1], messages_lib.read_tools(record.get("tools"), where))


def _implicit(record: _Json, where: str) -> Pair:
    system = messages_lib.read_system(record, where)
    whole = [messages_lib.read_list(record[field], where, field, system) for field in _ANSWERS]
    if whole[0] == whole[1]:
        raise InputError(f'{where}: field "rejected" is the same as "chosen"; remove the line or correct an answer')
    common = 0
    while common < min(map(len, whole)) and whole[0][common] == whole[1][common]:
        common += 1
    # Where a conversation goes on after an answer that both share, the prompt ends before the next answers.
    differs = [messages[common] if common < len(messages) else None for messages in whole]
    if not common or any(message is not None and message["role"] != "assistant" for message in differs):
        raise InputError(
            f'{where}: fields "chosen" and "rejected" have different prompts; both must begin with the same messages, '
            "up to an assistant turn"
        )
    answers = [_answer(each[common:], where, field) for each, field in zip(whole, _ANSWERS, strict=True)]
    prompt = (*system, *whole[0][:common])
    return Pair(prompt, tuple(answers[0]), tuple(answers[1]), messages_lib.read_tools(record.get("tools"), where))


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _answer(messages: Sequence[_Json], where: str, field: str) -> Sequence[_Json]:
    """Returns the messages of an answer, which begin and end with an assistant turn."""
    if not messages:
        raise InputError(f'{where}: field "{field}" is empty after the prompt; add the answer')
    for message in (messages[0], messages[-1]):
        if message["role"] != "assistant":
            raise InputError(
                f'{where}: field "{field}" must begin and end with an assistant turn after the prompt, but has one of '
                f'role {message["role"]}'
            )
    return messages


def encode(
    pair: Pair, tokenizer: Tokenizer, template: ChatTemplate | None, config: ChatConfig
) -> tuple[_Encoded, _Encoded]:
    """Returns the (ids, loss mask) of the chosen and of the rejected answer, each after the prompt.

    Loss is on the assistant's turns of the answer, as `config.thinking` says, or on the text of an answer and the end
    of the document after it. The ids ahead of the first one with loss are the same in both.

    Raises:
      InputError: the template does not fit the messages.
    """
    if isinstance(pair.prompt, str):
        return _encode_texts(pair.prompt, (f"{pair.chosen}", f"{pair.rejected}"), tokenizer)
    assert template is not None, "the caller refuses messages without a template"
    found = [
        encode_answer(tokenizer, template, pair.prompt, answer, pair.tools, config.thinking)
        for answer in (pair.chosen, pair.rejected)
        if not isinstance(answer, str)
    ]
    prompts = [ids[: mask.index(True)] if True in mask else ids for ids, mask in found]
    if prompts[0] != prompts[1] and config.thinking != "mask":
        raise InputError(
            'fields "chosen" and "rejected": the chat template writes the prompt differently before them; use another '
            "template"
        )
    return found[0], found[1]


def _encode_texts(prompt: str, answers: Sequence[str], tokenizer: Tokenizer) -> tuple[_Encoded, _Encoded]:
    """Encodes prompt and answer together, since a tokenizer may join the end of one with the start of the other."""
    alone, *whole = tokenizer.encode_batch([prompt, *(f"{prompt}{answer}" for answer in answers)])
    shared = 0
    while shared < min(map(len, (alone, *whole))) and alone[shared] == whole[0][shared] == whole[1][shared]:
        shared += 1
    begin = len(tokenizer.begin_ids) + shared
    ids = [tokenizer.document(each) for each in whole]
    found = [(each, [False] * begin + [True] * (len(each) - begin)) for each in ids]
    return found[0], found[1]
