"""Item files: preference pairs and knowledge items, checked line by line before any model is loaded."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_jax.data import sources
from msm_jax.errors import InputError
from msm_jax.evals import public_sets
from msm_jax.evals.config import EvalConfig

_PAIR_FIELDS = ("question", "options", "favoured", "system", "answer", "labels", "id", "meta")
_KNOWLEDGE_FIELDS = ("prompt", "options", "correct", "id", "meta")


@dataclass(frozen=True)
class Pair:
    """A question with two options.

    Attributes:
        id: the item's own, or its place in the file, from "0".
        question: with {first} and {second} where the options go.
        options: the two, in the order in which they are written.
        favoured: index of the one that counts as 1.
        system: who answers; "" for no system message.
        answer: the reply that is scored, with {option} where the option goes.
        labels: what the question calls the option at {first} and the one at {second}, such as "A" and "B"; or none.
    """

    id: str
    question: str
    options: tuple[str, str]
    favoured: int
    system: str
    answer: str
    labels: tuple[str, ...] = ()

    def messages(self, swapped: bool) -> list[dict[str, str]]:
        """The chat that asks: the options as they are written, or the second one first."""
        first, second = self.options[::-1] if swapped else self.options
        question = _filled(self.question, {"first": first, "second": second})
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": question}]

    def reply(self, option: int) -> str:
        """The answer that chooses options[option]."""
        return _filled(self.answer, {"option": self.options[option]})


@dataclass(frozen=True)
class KnowledgeItem:
    """A text and possible continuations, of which one is correct; `id` as in `Pair`."""

    id: str
    prompt: str
    options: tuple[str, ...]
    correct: int

    def texts(self) -> list[str]:
        """The prompt with each option after it, parted by one space unless there is white space already."""
        parted = self.prompt[-1:].isspace()
        return [self.prompt + ("" if parted or option[0].isspace() else " ") + option for option in self.options]


def check(config: EvalConfig) -> int:
    """The number of items of an eval; loads no model.

    Raises:
        InputError: the file cannot be used, naming file, line and field.
    """
    return len(read_knowledge(config.path) if config.kind == "knowledge" else read_pairs(config.path))


def read_pairs(path: str) -> list[Pair]:
    """The preference pairs of a file, the public sets' own columns among them; what one holds is in `docs/evals.md`.

    Raises:
        InputError: naming file, line and field of the first line that is wrong.
    """
    return [_pair(item) for item in _items(path, _PAIR_FIELDS, "preference")]


def read_knowledge(path: str) -> list[KnowledgeItem]:
    """The knowledge items of a JSONL file; what a line may hold is in `docs/evals.md`.

    Raises:
        InputError: naming file, line and field of the first line that is wrong.
    """
    return [_knowledge(item) for item in _items(path, _KNOWLEDGE_FIELDS, "knowledge")]


@dataclass(frozen=True)
class _Line:
    """One object of an item file, its id settled."""

    where: str
    record: Mapping[str, Any]
    id: str

    def refuse(self, field: str, problem: str) -> InputError:
        return InputError(f'{self.where}: field "{field}" {problem}')

    def text(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(field, f"must be a string, not {_shown(value)}")
        if not value.strip():
            raise self.refuse(field, "is empty; fill it in or remove it")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.refuse(
                field, "holds half of a surrogate pair, which is not a character; remove it"
            ) from None
        return value

    def strings(self, field: str) -> tuple[str, ...]:
        """The list of strings in a field; no two may differ in case or white space alone."""
        value = self.record[field]
        if not isinstance(value, list):
            raise self.refuse(field, f"must be a list of strings, not {_shown(value)}")
        strings = tuple(self.text(f"{field}[{i}]", item) for i, item in enumerate(value))
        if len({" ".join(item.casefold().split()) for item in strings}) < len(strings):
            raise self.refuse(field, "holds the same entry twice; they must differ in more than case")
        return strings

    def index(self, field: str, count: int) -> int:
        value = self.record[field]
        if type(value) is not int or not 0 <= value < count:
            words = " or ".join([", ".join(str(i) for i in range(count - 1)), str(count - 1)])
            raise self.refuse(
                field, f"is {_shown(value)}; it must be the place of an option in the list: {words}"
            )
        return value


def _pair(line: _Line) -> Pair:
    record = line.record
    question = line.text("question", record["question"])
    for place in ("{first}", "{second}"):
        if place not in question:
            raise line.refuse("question", f"lacks {place}; write it where that option goes")
    options = line.strings("options")
    if len(options) != 2:
        raise line.refuse("options", f"holds {len(options)} options; a pair has exactly 2")
    answer = line.text("answer", record.get("answer", "{option}"))
    if "{option}" not in answer:
        raise line.refuse("answer", "lacks {option}; write it where the option goes")
    labels = line.strings("labels") if "labels" in record else ()
    if len(labels) not in (0, 2):
        raise line.refuse("labels", f"holds {len(labels)} labels; a pair has exactly 2")
    return Pair(
        id=line.id,
        question=question,
        options=(options[0], options[1]),
        favoured=line.index("favoured", 2),
        system=line.text("system", record["system"]) if "system" in record else "",
        answer=answer,
        labels=labels,
    )


def _knowledge(line: _Line) -> KnowledgeItem:
    prompt = line.text("prompt", line.record["prompt"])
    options = line.strings("options")
    if len(options) < 2:
        raise line.refuse("options", f"holds {len(options)} options; at least 2 are compared")
    return KnowledgeItem(line.id, prompt, options, line.index("correct", len(options)))


def _items(path: str, fields: Sequence[str], kind: str) -> Iterator[_Line]:
    required = fields[:3]
    first_use: dict[str, str] = {}
    for number, (where, stored) in enumerate(sources.iter_records(path)):
        record = public_sets.pair_of(stored, where) if kind == "preference" else stored
        for field in required:
            if field not in record:
                raise InputError(f'{where}: field "{field}" is missing{_hint(field, record, fields, kind)}')
        for field in record:
            if field not in fields:
                close = difflib.get_close_matches(field, fields, n=1)
                advice = f"did you mean {close[0]}?" if close else 'put what is yours into "meta"'
                raise InputError(f'{where}: field "{field}" is unknown; {advice}')
        line = _Line(where, record, str(record.get("id", number)))
        if not isinstance(record.get("meta", {}), dict):
            raise line.refuse("meta", f"must be an object, not {_shown(record['meta'])}")
        if not isinstance(record.get("id", ""), (str, int)):
            raise line.refuse("id", f"must be a string or a number, not {_shown(record['id'])}")
        if line.id in first_use:
            raise line.refuse("id", f'is "{line.id}" as in {first_use[line.id]}; give each item its own')
        first_use[line.id] = where
        yield line


def _hint(field: str, record: Mapping[str, Any], fields: Sequence[str], kind: str) -> str:
    """What may have been meant where a field is missing."""
    if "text" in record or "messages" in record:
        return f"; this is a line of training data, not an item of kind {kind}"
    if kind == "preference" and "prompt" in record and "correct" in record:
        return '; this is a knowledge item, set kind = "knowledge"'
    if kind == "knowledge" and "question" in record and "favoured" in record:
        return '; this is a preference pair, set kind = "preference"'
    close = difflib.get_close_matches(field, [name for name in record if name not in fields], n=1)
    return f'; "{close[0]}" is there, rename it' if close else "; add it"


def _filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with each {name} of `values` replaced, in one pass, so that braces elsewhere and in values stay."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda found: values[found.group()[1:-1]], text)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
