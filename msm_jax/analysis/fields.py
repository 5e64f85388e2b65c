"""Checks of the values of a plain dict. Each returns its value, or raises an InputError that begins with `where`.

`where` is the path of the value, such as "results.arms.aft".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msm_jax.errors import InputError


def known(entry: Any, where: str, fields: set[str], required: Sequence[str] = ()) -> None:
    """Refuses an entry that has a field which is not among `fields`, or that lacks a required one."""
    for name in sorted(set(mapping(entry, where)) - fields):
        raise InputError(f"{where}.{name}: unknown field; the fields are {', '.join(sorted(fields))}")
    for name in required:
        if name not in entry:
            raise InputError(f"{where}.{name} is missing; add it")


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Returns a value that must be a mapping."""
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {type(value).__name__}; a mapping is needed")
    return value


def sequence(value: Any, where: str) -> Sequence[Any]:
    """Returns a value that must be a list, a tuple or an array, and not a string."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InputError(f"{where} is {type(value).__name__}; a list is needed")
    return value


def strings(value: Any, where: str) -> tuple[str, ...]:
    """Returns a value that must be a list of strings, as a tuple."""
    return tuple(text(item, f"{where}[{i}]") for i, item in enumerate(sequence(value, where)))


def text(value: Any, where: str) -> str:
    """Returns a value that must be a string."""
    if not isinstance(value, str):
        raise InputError(f"{where} is {type(value).__name__}; a string is needed")
    return value


def number(value: Any, where: str) -> float:
    """Returns a value that must be a number, and not a bool; an int stays an int, anything else becomes a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{where} is {value!r}; a number is needed")
    return value if isinstance(value, int) else float(value)
