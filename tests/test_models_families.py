"""config.json in its old and new forms, and blocks of our parameters as rectangles of Hugging Face's tensors."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.models import families, presets, transformer
from msm_jax.models.config import RUN_SETTINGS, ModelConfig, RopeScaling

FLOAT32 = np.dtype(np.float32)
PLAIN = {
    "model_type": "llama", "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}


def read(**fields):
    return families.from_config({**PLAIN, **fields}, "config.json", FLOAT32)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_has_a_config_of_transformers(name):
    model = dataclasses.replace(presets.PRESETS[name], compute_dtype="float32", remat="none", scan_layers=True)
    again = families.from_config(families.to_config(model), "config.json", FLOAT32)
    assert dataclasses.replace(again, remat="none") == model


def test_a_config_holds_every_field_but_the_run_settings():
    """Checks that export can tell by these fields whether the source's config.json describes a model."""
    scaling = RopeScaling("llama3", 8.0, 64)
    plain = ModelConfig(97, 32, 2, 4, 2, 8, 48)
    changed = ModelConfig(
        98, 64, 3, 8, 4, 16, 96, 5e5, scaling, 1e-5, qkv_bias=True, qk_norm=True, tie_embeddings=False,
        max_position_embeddings=512, compute_dtype="bfloat16", remat="full", scan_layers=False, attention="reference",
    )  # fmt: skip
    for field in dataclasses.fields(ModelConfig):
        value = getattr(changed, field.name)
        assert value != getattr(plain, field.name), f"give {field.name} another value here"
        model = dataclasses.replace(plain, **{field.name: value})
        again = families.from_config(families.to_config(model), "config.json", FLOAT32)
        assert (getattr(again, field.name) == value) == (field.name not in RUN_SETTINGS), field.name


@pytest.mark.parametrize(
    ("scaling", "want"),
    [
        ({"rope_type": "llama3", **LLAMA3}, RopeScaling("llama3", 8.0, 64)),
        ({"rope_type": "yarn", **YARN}, RopeScaling("yarn", 4.0, 64)),
        (
            {"rope_type": "yarn", **YARN, "beta_fast": 8, "attention_factor": 1.5},
            RopeScaling("yarn", 4.0, 64, beta_fast=8.0, attention_factor=1.5),
        ),
        ({"rope_type": "default"}, None),
    ],
)  # fmt: skip
def test_rope_of_transformers_4_and_5_is_the_same(scaling, want):
    new = read(rope_parameters={**scaling, "rope_theta": 5e5})
    old = read(rope_theta=5e5, rope_scaling=scaling)
    older = read(rope_theta=5e5, rope_scaling={"type": scaling["rope_type"], **scaling})
    assert new == old == older
    assert (new.rope_theta, new.rope_scaling) == (5e5, want)
    assert read(rope_theta=5e5, rope_scaling=None).rope_scaling is None


def test_what_a_config_leaves_out():
    model = read()
    assert (model.num_kv_heads, model.head_dim, model.rope_theta) == (4, 8, 10_000.0)
    assert (model.max_position_embeddings, model.tie_embeddings, model.rms_norm_eps) == (2048, False, 1e-6)
    assert read(model_type="qwen3").head_dim == 128
    assert read(model_type="qwen3").qk_norm and not read(model_type="qwen3").qkv_bias
    assert read(model_type="qwen2").qkv_bias and not read(model_type="qwen2").qk_norm


def test_yarn_reaches_the_stretched_context():
    """Qwen's model cards enable YaRN without changing max_position_embeddings."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    assert read(max_position_embeddings=40_960, rope_scaling=yarn).max_position_embeddings == 131_072


def test_settings_read_a_nested_scaling():
    value = dataclasses.asdict(presets.PRESETS["llama3.1-8b"])
    assert json.loads(json.dumps(value))["rope_scaling"]["kind"] == "llama3"
    for built in (settings.build(ModelConfig, value), ModelConfig.from_json(value)):
        assert built == presets.PRESETS["llama3.1-8b"]
    assert settings.build(ModelConfig, {**value, "rope_scaling": None}).rope_scaling is None
    with pytest.raises(InputError, match=r"config\.rope_scaling\.facto: unknown field; did you mean factor"):
        settings.build(ModelConfig, {**value, "rope_scaling": {"kind": "yarn", "facto": 2.0}})
    with pytest.raises(InputError, match="rope_scaling"):
        ModelConfig.from_json({**value, "rope_scaling": {"kind": "yarn", "facto": 2.0}})
    with pytest.raises(InputError, match=r"rope_scaling\.kind = 'linear'"):
        presets.preset("mini-1m", rope_scaling={"kind": "linear", "factor": 2.0, "original_max_position_embeddings": 8})


def test_weights_are_those_of_the_model():
    for name in ("qwen2.5-0.5b", "qwen3-32b", "llama3.1-8b"):
        abstract = transformer.abstract_params(presets.PRESETS[name])
        found = {weight.path: weight.full_shape for weight in families.weights(presets.PRESETS[name])}
        want = {(k,): v.shape for k, v in abstract.items() if k != "layers"}
        want |= {("layers", k): v.shape for k, v in abstract["layers"].items()}
        assert found == want


MODEL = ModelConfig(60, 24, 2, 6, 2, 4, 20, qkv_bias=True, qk_norm=True, tie_embeddings=False)


@given(st.data())
def test_blocks_and_rectangles_agree(data):
    """Reads blocks through their rectangles, and compares them with blocks of the whole tensor, in both directions."""
    weight = data.draw(st.sampled_from(families.weights(MODEL)))
    theirs = np.arange(math.prod(weight.hf_shape)).reshape(weight.hf_shape)
    rows = theirs if theirs.ndim == 2 else theirs[None]
    whole = tuple(slice(0, n) for n in weight.shape)
    ours = weight.from_hf(rows, whole)
    if weight.inputs:
        np.testing.assert_array_equal(ours.reshape(rows.shape[::-1]), rows.T)
    np.testing.assert_array_equal(weight.to_hf(ours), rows)
    axis = data.draw(st.integers(0, len(weight.shape) - 1))
    start = data.draw(st.integers(0, weight.shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, weight.shape[axis]))
    index = (*whole[:axis], slice(start, stop), *whole[axis + 1 :])
    try:
        rectangle = weight.rectangle(index)
    except ValueError:
        # Part of every head is no rectangle.
        assert weight.shape[axis] == MODEL.head_dim and stop - start < MODEL.head_dim
        return
    np.testing.assert_array_equal(weight.from_hf(rows[rectangle], index), ours[index])


def test_biases_and_norms_together_are_no_family():
    with pytest.raises(InputError, match="no architecture of transformers"):
        families.to_config(MODEL)
