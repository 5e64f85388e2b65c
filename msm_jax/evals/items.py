"""Item files: JSONL or Parquet, read and checked record by record before any model is loaded."""

import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from msm_jax.data import sources
from msm_jax.errors import InputError

T = TypeVar("T")

# What a record is that has all of these fields but is no item of the kind that reads it.
_SHAPES = (
    (("text",), "a line of training data, not an item of an eval"),
    (("messages",), "a line of training data, not an item of an eval"),
    (("prompt", "correct"), 'a knowledge item, set kind = "knowledge"'),
    (("question", "favoured"), 'a preference pair, set kind = "preference"'),
)


@dataclass(frozen=True)
class Record:
    """One record of an item file, with methods that check its fields and refuse them by file, line and field.

    Attributes:
        where: "file:line".
        fields: the record.
        id: the record's own id, or its index in the file, from "0".
    """

    where: str
    fields: Mapping[str, Any]
    id: str

    def refuse(self, field: str, problem: str) -> InputError:
        """Returns the error that says what is wrong with a field."""
        return InputError(f'{self.where}: field "{field}" {problem}')

    def text(self, field: str, value: Any) -> str:
        """Returns `value` if it is a string that holds more than white space."""
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
        """Returns the list of strings in a field; no two may differ only in case or white space."""
        value = self.fields[field]
        if not isinstance(value, list):
            raise self.refuse(field, f"must be a list of strings, not {_shown(value)}")
        strings = tuple(self.text(f"{field}[{i}]", item) for i, item in enumerate(value))
        if len({" ".join(item.casefold().split()) for item in strings}) < len(strings):
            raise self.refuse(field, "holds the same entry twice; they must differ in more than case")
        return strings

    def index(self, field: str, count: int) -> int:
        """Returns the integer in a field; it must be the index of one of `count` options."""
        value = self.fields[field]
        if type(value) is not int or not 0 <= value < count:
            words = " or ".join([", ".join(str(i) for i in range(count - 1)), str(count - 1)])
            raise self.refuse(field, f"is {_shown(value)}; it must be the index of an option in the list: {words}")
        return value


def read(
    path: str,
    required: Sequence[str],
    optional: Sequence[str],
    item: Callable[[Record], T],
    convert: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda stored, where: stored,
) -> list[T]:
    """Reads the items of a file (JSONL or Parquet, a comma list or a glob).

    Args:
        path: where the items are.
        required: fields that each record must have.
        optional: fields that it may have beside "id" and "meta".
        item: makes an item of a record whose fields are all known, and refuses wrong values.
        convert: brings a stored record, read at "file:line", into the shape that has these fields.

    Raises:
        InputError: names file, line and field of the first record that is wrong.
    """
    known = (*required, *optional, "id", "meta")
    first_use: dict[str, str] = {}
    found = []
    for number, (where, stored) in enumerate(sources.iter_records(path)):
        fields = convert(stored, where)
        for field in required:
            if field not in fields:
                raise InputError(f'{where}: field "{field}" is missing{_hint(field, fields, known)}')
        for field in fields:
            if field not in known:
                close = difflib.get_close_matches(field, known, n=1)
                advice = f"did you mean {close[0]}?" if close else 'put your own fields into "meta"'
                raise InputError(f'{where}: field "{field}" is unknown; {advice}')
        record = Record(where, fields, str(fields.get("id", number)))
        if not isinstance(fields.get("meta", {}), dict):
            raise record.refuse("meta", f"must be an object, not {_shown(fields['meta'])}")
        if not isinstance(fields.get("id", ""), (str, int)):
            raise record.refuse("id", f"must be a string or a number, not {_shown(fields['id'])}")
        if record.id in first_use:
            raise record.refuse("id", f'is "{record.id}" as in {first_use[record.id]}; give each item its own')
        first_use[record.id] = where
        found.append(item(record))
    return found


def _hint(field: str, fields: Mapping[str, Any], known: Collection[str]) -> str:
    """Returns what may have been meant where a field is missing, as the end of a message."""
    for marks, meant in _SHAPES:
        if fields.keys() >= set(marks) and not set(marks) <= set(known):
            return f"; this is {meant}"
    close = difflib.get_close_matches(field, [name for name in fields if name not in known], n=1)
    return f'; "{close[0]}" is there, rename it' if close else "; add it"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
