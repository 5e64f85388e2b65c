"""Checks of a plain dict's values: each returns the value that it was given, or refuses it by name.

`where` is the value's path, such as "results.arms.aft"; every function raises an InputError that begins with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msm_jax.errors import InputError


def known(entry: Any, where: str, fields: set[str], required: Sequence[str] = ()) -> None:
    """Nothing; refuses an entry with a field that is not among `fields`, or without a required one."""
    for name in sorted(set(mapping(entry, where)) - fields):
        raise InputError(f"{where}.{name}: unknown field; the fields are {', '.join(sorted(fields))}")
    for name in required:
        if name not in entry:
            raise InputError(f"{where}.{name} is missing; add it")


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {type(value).__name__}; a mapping is needed")
    return value


def sequence(value: Any, where: str) -> Sequence[Any]:
    """A list, a tuple or an array; no text."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InputError(f"{where} is {type(value).__name__}; a list is needed")
    return value


def strings(value: Any, where: str) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(text(item, f"{where}[{i}]") for i, item in enumerate(sequence(value, where)))


def text(value: Any, where: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise InputError(f"{where} is {type(value).__name__}; a string is needed")
    return value


def number(value: Any, where: str) -> float:
    """A number, an integer where it is one; no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{where} is {value!r}; a number is needed")
    return value if isinstance(value, int) else float(value)
