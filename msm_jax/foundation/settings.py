"""Mappings (ConfigDict, JSON) to frozen dataclasses and back. Every refusal names the dotted field."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import ml_collections

from msm_jax.errors import InputError

T = TypeVar("T")


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "config") -> T:
    """Builds the dataclass `cls` from a nested mapping; `where` prefixes the field names in errors.

    Fields may be bool, int, float, str, Literal, Optional or another union, tuple[...], Mapping[str, X], Any,
    or another dataclass. An int is accepted where a float is declared, and a list where a tuple is.

    Raises:
        InputError: unknown key (with the nearest valid one), wrong type, missing required field, or a
            `ValueError` from the dataclass's own `__post_init__`.
    """
    mapping = plain(mapping)
    if not isinstance(mapping, Mapping):
        raise InputError(
            f"{where}: expected a mapping with the fields of {cls.__name__}, got {_shown(mapping)}"
        )
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]  # T is a dataclass
    for key in mapping:
        if key not in fields:
            raise InputError(f"{where}.{key}: unknown field; {nearest(str(key), fields)}")
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _value(hints[name], mapping[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{name}: required field is missing; set it")
    try:
        return cls(**values)
    except ValueError as error:
        message = str(error)
        raise InputError(
            message if message.startswith((f"{where}.", f"{where}:")) else f"{where}: {message}"
        ) from error


def to_json(value: Any) -> Any:
    """Returns the JSON value from which `build` makes `value`: dicts for dataclasses and mappings, lists for tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def plain(value: Any) -> Any:
    """Returns a value with dicts in place of ConfigDicts, and field references resolved, at every depth."""
    if isinstance(value, ml_collections.FieldReference):
        return plain(value.get())
    if isinstance(value, ml_collections.ConfigDict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(plain(item) for item in value)
    return value


def nearest(key: str, valid: typing.Iterable[str]) -> str:
    """Returns a phrase that suggests the valid key nearest to `key`, or lists all valid keys if none is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"valid: {', '.join(valid)}" if valid else "no field is valid here"


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        # Here `hint` is a class: no field is declared as an instance of a dataclass.
        return value if isinstance(value, hint) else build(hint, value, where)  # type: ignore[arg-type]  # a dataclass, like T
    if origin in (typing.Union, types.UnionType):
        return _member(args, value, where)
    if value is None and hint is not type(None):
        raise InputError(f"{where}: is not set; it must be {_name(hint)}")
    if origin is Literal:
        if value in args and isinstance(value, tuple(type(a) for a in args)):
            return value
        close = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
        hint_text = f"did you mean {close[0]}?" if close else f"one of {', '.join(str(a) for a in args)}"
        raise InputError(f"{where}: {_shown(value)} is not allowed; {hint_text}")
    if origin is tuple:
        return _tuple(args, value, where)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a mapping, got {_shown(value)}")
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where}: key {key!r} is not a string")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{where}: expected {_name(hint)}, got {_shown(value)}")
    return value


def _member(members: tuple[Any, ...], value: Any, where: str) -> Any:
    """Builds the value as the first member of a union that accepts it; an exact type goes before int as float."""
    if type(value) in members:
        return value
    refusals = []
    for member in members:
        try:
            return _value(member, value, where)
        except InputError as error:
            refusals.append(error)
    kinds = [m for m in members if m is not type(None)]
    if len(kinds) == 1 and value is not None:
        raise refusals[members.index(kinds[0])]
    raise InputError(f"{where}: expected {' or '.join(_name(m) for m in members)}, got {_shown(value)}")


def _tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise InputError(f"{where}: expected a tuple, got {_shown(value)}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise InputError(f"{where}: expected {len(args)} values, got {len(value)}")
    return tuple(
        _value(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True))
    )


def _name(hint: Any) -> str:
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
