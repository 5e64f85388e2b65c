"""Every preset has exactly as many parameters as the checkpoint that it is named after."""

import pytest

from msm_jax.errors import InputError
from msm_jax.models import presets, transformer

# Our own sizes by arithmetic; the others as the sums of tensor sizes in the published checkpoints.
COUNTS = {
    "mini-0.3m": 291_264,
    "mini-1m": 1_115_264,
    "mini-15m": 14_652_288,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama3.1-8b": 8_030_261_248,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_parameter_count(name):
    assert transformer.count_params(presets.PRESETS[name]) == COUNTS[name]


def test_overrides_and_wrong_names():
    assert presets.preset("mini-0.3m", vocab_size=999).vocab_size == 999
    with pytest.raises(InputError, match="no model preset is named 'tiny'"):
        presets.preset("tiny")
    with pytest.raises(InputError, match="no field 'depth'"):
        presets.preset("mini-0.3m", depth=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_kv_heads", 3), ("head_dim", 15), ("num_layers", 0), ("remat", "some"), ("compute_dtype", "float16")],
)
def test_shapes_that_cannot_work_are_refused(field, value):
    with pytest.raises(InputError, match=f"model.{field}|num_kv_heads"):
        presets.preset("mini-0.3m", **{field: value})
