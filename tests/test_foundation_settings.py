"""settings.build refuses by dotted field, and to_json is its inverse."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_jax.errors import InputError
from msm_jax.foundation import settings


@dataclasses.dataclass(frozen=True)
class Source:
    path: str
    kind: Literal["documents", "chats"] = "documents"
    holdout: float = 0.0

    def __post_init__(self):
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must lie in [0, 1), got {self.holdout}")


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int
    sources: Mapping[str, Source]
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stages: tuple[tuple[int, Mapping[str, float]], ...] = ()
    name: str | None = None
    main: Source = Source("x")
    fast: bool = False
    extra: Mapping[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    anything: Any = None


GOOD = {"steps": 3, "sources": {"web": {"path": "a.jsonl"}}}


def test_builds_nested_values_and_accepts_int_for_float_and_list_for_tuple():
    got = settings.build(
        Settings,
        GOOD | {"weights": {"web": 1}, "stages": [[10, {"web": 2}]], "main": {"path": "m", "kind": "chats"}},
    )
    assert got.sources["web"] == Source("a.jsonl")
    assert got.weights == {"web": 1.0}
    assert isinstance(got.weights["web"], float)
    assert got.stages == ((10, {"web": 2.0}),)
    assert got.main == Source("m", "chats")


def test_config_dict_with_references_tuples_and_nesting():
    config = ml_collections.ConfigDict(GOOD | {"stages": ((5, {"web": 1.0}),)})
    config.name = ml_collections.config_dict.placeholder(str)
    config.fast = config.get_ref("fast") if "fast" in config else True
    got = settings.build(Settings, config)
    assert got.stages == ((5, {"web": 1.0}),)
    assert got.name is None
    assert got.fast is True


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"step": 3}, ("config.step:", "unknown", "did you mean steps?")),
        ({"zzzzzz": 3}, ("config.zzzzzz:", "valid: ", "weights")),
        ({"steps": 3.0}, ("config.steps:", "int", "3.0")),
        ({"steps": True}, ("config.steps:", "int", "bool")),
        ({"steps": None}, ("config.steps:", "not set")),
        ({"fast": 1}, ("config.fast:", "bool")),
        ({"name": 3}, ("config.name:", "str")),
        ({"sources": [1]}, ("config.sources:", "mapping")),
        ({"sources": {"web": {"pth": "a"}}}, ("config.sources.web.pth:", "did you mean path?")),
        ({"sources": {"web": {}}}, ("config.sources.web.path:", "missing")),
        (
            {"sources": {"web": {"path": "a", "kind": "chat"}}},
            ("config.sources.web.kind:", "did you mean chats?"),
        ),
        ({"sources": {"web": {"path": "a", "holdout": 2}}}, ("config.sources.web:", "holdout must lie")),
        ({"weights": {"web": "1"}}, ("config.weights.web:", "float", "'1'")),
        ({"stages": ((1, {"web": "x"}),)}, ("config.stages[0][1].web:", "float")),
        ({"stages": ((1,),)}, ("config.stages[0]:", "2 values")),
        ({"stages": 3}, ("config.stages:", "tuple")),
        ({"extra": {"a": ()}}, ("config.extra.a:", "int or float or bool or str")),
    ],
)
def test_refusals_name_the_dotted_field_in_one_line(change, parts):
    with pytest.raises(InputError) as caught:
        settings.build(Settings, GOOD | change)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_missing_required_field():
    with pytest.raises(InputError, match=r"run\.steps: required"):
        settings.build(Settings, {"sources": {}}, where="run")


names = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=5)
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
sources = st.builds(
    Source,
    path=names,
    kind=st.sampled_from(["documents", "chats"]),
    holdout=st.floats(0, 0.9, allow_subnormal=False),
)


@given(
    st.builds(
        Settings,
        steps=st.integers(),
        sources=st.dictionaries(names, sources, max_size=3),
        weights=st.dictionaries(names, floats, max_size=3),
        stages=st.lists(st.tuples(st.integers(), st.dictionaries(names, floats, max_size=2)), max_size=2).map(
            tuple
        ),
        name=st.none() | names,
        main=sources,
        fast=st.booleans(),
        extra=st.dictionaries(names, st.integers() | floats | st.booleans() | names, max_size=3),
        anything=st.none() | st.integers() | names,
    )
)
def test_json_round_trip(value):
    rebuilt = settings.build(Settings, json.loads(json.dumps(settings.to_json(value))))
    assert rebuilt == value
    assert {k: type(v) for k, v in rebuilt.extra.items()} == {k: type(v) for k, v in value.extra.items()}
