"""Data settings: a mixture from which no rows can be drawn is refused, and the message names the field."""

from collections.abc import Mapping
from typing import Any

import pytest

from msm_jax.data.config import DataConfig
from msm_jax.errors import InputError
from msm_jax.foundation import settings

GOOD: Mapping[str, Any] = {
    "seq_len": 8,
    "sources": {"a": {"path": "a"}, "b": {"path": "b"}},
    "weights": {"a": 1, "b": 2},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 1}, "config.data: seq_len: is 1"),
        ({"sources": {}}, "config.data: sources: is empty"),
        ({"weights": {}}, "config.data: weights: the mixture is empty"),
        ({"weights": {"a": 0.0, "b": 0.0}}, "config.data: weights: the mixture is empty"),
        ({"weights": {"a": 1.0, "b": -0.5}}, "config.data: weights.b: is -0.5"),
        ({"weights": {"a": 1.0, "b": float("nan")}}, "config.data: weights.b: is nan"),
        ({"weights": {"a": 1.0, "b": float("inf")}}, "config.data: weights.b: is inf"),
        ({"weights": {"a": 1.0, "c": 1.0}}, "config.data: weights.c: no such source; the sources are a, b"),
        ({"weights": {"a": 1.0}}, "config.data: weights.b: the source has no weight in any stage"),
        ({"stages": [[5, {"c": 1.0}]]}, r"config.data: stages\[0\].c: no such source"),
        ({"stages": [[5, {"a": 0.0}]]}, r"config.data: stages\[0\]: the mixture is empty"),
        ({"stages": [[0, {"a": 1.0}]]}, r"config.data: stages\[0\]: starts at step 0"),
        ({"stages": [[5, {"a": 1.0}], [5, {"b": 1.0}]]}, r"config.data: stages\[1\]: starts at step 5"),
        ({"sources": {"a": {"path": "a", "holdout": 1.0}}}, "config.data.sources.a: holdout: is 1.0"),
        ({"sources": {"a": {"path": "a", "kind": "chat"}}}, r"config.data.sources.a.kind: .*chats"),
        ({"wieghts": {}}, r"config.data.wieghts: .*weights"),
    ],
)
def test_bad_settings_are_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match="^" + message):
        settings.build(DataConfig, {**GOOD, **changes}, "config.data")


def test_stages_and_weights_that_can_be_drawn_are_taken() -> None:
    config = settings.build(
        DataConfig, {**GOOD, "weights": {"a": 1}, "stages": [[3, {"b": 1}], [7, {"a": 1}]]}
    )
    assert config.all_stages() == ((0, {"a": 1.0}), (3, {"b": 1.0}), (7, {"a": 1.0}))
