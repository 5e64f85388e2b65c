"""Conversion of the rows of the public preference sets into the pairs that `preference` reads.

Rows have one of two shapes, which differ in their columns: a choice of things, {"question", "item1", "item2",
"liked_item", ...}, whose question names both; and a choice of stances, {"question", "answer": "A" or "B", ...}, whose
question lists each stance on its own line. Other columns become the pair's `meta`.
"""

import re
from collections.abc import Mapping
from typing import Any

from msm_jax.errors import InputError

_THINGS = ("question", "item1", "item2", "liked_item")
_LABELS = ("A", "B")


def pair_of(record: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Returns the row of a public set with the fields of a preference pair, and any other record unchanged.

    Raises:
        InputError: the question does not contain the options where rows of its shape have them.
    """
    if all(isinstance(record.get(field), str) for field in _THINGS):
        return _things(record, where)
    if "options" not in record and record.get("answer") in _LABELS and isinstance(record.get("question"), str):
        return _stances(record, where)
    return record


def _things(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    options = [record["item1"], record["item2"]]
    named = f"{options[0]} or {options[1]}"
    if named not in record["question"]:
        raise InputError(f'{where}: field "question" does not contain {named!r} (item1 or item2); correct it')
    if record["liked_item"] not in options:
        raise InputError(f'{where}: field "liked_item" is neither item1 nor item2; correct it')
    return {
        "question": record["question"].replace(named, "{first} or {second}", 1),
        "options": options,
        "favoured": options.index(record["liked_item"]),
        "answer": "I prefer {option}.",
        "meta": _rest(record, (*_THINGS, "disliked_item")),
    }


def _stances(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    question, options = record["question"], []
    for label, place in zip(_LABELS, ("{first}", "{second}"), strict=True):
        line = re.search(rf"^{label}\) *(.+?) *$", question, re.MULTILINE)
        if line is None:
            raise InputError(f'{where}: field "question" has no line "{label}) ..."; write each stance on its own line')
        options.append(line[1])
        question = question[: line.start(1)] + place + question[line.end(1) :]
    return {
        "question": question,
        "options": options,
        "favoured": _LABELS.index(record["answer"]),
        "labels": list(_LABELS),
        "meta": _rest(record, ("question", "answer")),
    }


def _rest(record: Mapping[str, Any], used: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in used}
