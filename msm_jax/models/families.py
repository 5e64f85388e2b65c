"""Hugging Face's Llama, Qwen2 and Qwen3: their config.json as a `ModelConfig`, and the tensors of their checkpoints.

Their matrices are [outputs, inputs], with the axes of each side flattened. Ours have the inputs first, keep the axes
apart, and are stacked by layer on a leading axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from msm_jax.errors import InputError
from msm_jax.models import parameters
from msm_jax.models.config import ModelConfig, RopeScaling
from msm_jax.models.parameters import Parameter

# The values of fields that a config.json leaves out: the defaults of transformers' configuration classes.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "qwen2": {"max_position_embeddings": 32_768},
    "qwen3": {"max_position_embeddings": 32_768, "head_dim": 128},
}
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# Fields that ask for a computation that is not supported, unless they have this value.
_MUST_BE: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "rope_interleaved": False,
    "partial_rotary_factor": 1.0,
}


@dataclass(frozen=True)
class Weight:
    """One of our parameters, and its tensors in a Hugging Face checkpoint.

    Attributes:
        parameter: its row of the table.
        shape: its shape in our tree, without the axis of layers.
        layers: the number of layers that are stacked; 0 for a parameter that does not belong to a layer.
    """

    parameter: Parameter
    shape: tuple[int, ...]
    layers: int

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to it in our tree."""
        return ("layers", self.parameter.name) if self.layers else (self.parameter.name,)

    @property
    def inputs(self) -> int:
        """The number of our leading axes that are the inputs of a matrix; 0 for a parameter that is not transposed."""
        return self.parameter.inputs

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Its shape in our tree, with the axis of layers if there is one."""
        return (self.layers, *self.shape) if self.layers else self.shape

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """The shape of its tensor in transformers."""
        if self.inputs:
            return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])
        return self.shape if self.parameter.layout == "table" else (math.prod(self.shape),)

    def tensor(self, layer: int = 0) -> str:
        """Returns the name in transformers of its tensor for a layer."""
        return f"model.layers.{layer}.{self.parameter.hf_name}" if self.layers else self.parameter.hf_name

    def rectangle(self, index: tuple[slice, ...]) -> tuple[slice, slice]:
        """Returns the rows and columns of their tensor that hold a block of ours; their vectors count as one row.

        Args:
            index: a slice with bounds for each axis of `shape`.

        Raises:
            ValueError: the block is not a rectangle of their tensor.
        """
        shape = self.shape
        if self.inputs:
            k = self.inputs
            return _interval(shape[k:], index[k:]), _interval(shape[:k], index[:k])
        if self.parameter.layout == "table":
            return index[0], index[1]
        return slice(0, 1), _interval(shape, index)

    def from_hf(self, block: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        """Returns our block `index` from the rectangle of their tensor, as a view if possible."""
        shape = tuple(part.stop - part.start for part in index)
        return (block.T if self.inputs else block).reshape(shape)

    def to_hf(self, block: np.ndarray) -> np.ndarray:
        """Returns the rows [rows, columns] of their tensor from a block of ours without the axis of layers."""
        if self.inputs:
            return block.reshape(math.prod(block.shape[: self.inputs]), -1).T
        return block if self.parameter.layout == "table" else block.reshape(1, -1)


def weights(config: ModelConfig) -> list[Weight]:
    """Returns every parameter of the model, in the order in which a checkpoint for transformers is written.

    The order is: the embedding; for a layer its matrices, the vectors that every model has, and the other vectors; the
    final norm; the output matrix.
    """
    rows = parameters.of_model(config)
    first = [row for row in rows if row.layout == "table"]
    layered = sorted(
        (row for row in rows if row.in_layer), key=lambda row: (row.layout != "matrix", row.exists is not None)
    )
    last = [row for row in rows if not row.in_layer and row not in first]
    return [
        Weight(row, row.shape(config), config.num_layers if row.in_layer else 0) for row in (*first, *layered, *last)
    ]


def tensors(config: ModelConfig) -> dict[str, tuple[Weight, int]]:
    """Maps the name in transformers of each tensor to our parameter and its layer (0 if it belongs to no layer)."""
    found = weights(config)
    named = {w.tensor(): (w, 0) for w in found if not w.layers}
    for layer in range(config.num_layers):
        named |= {w.tensor(layer): (w, layer) for w in found if w.layers}
    return named


def from_config(config: Mapping[str, Any], where: str, dtype: np.dtype) -> ModelConfig:
    """Returns the model that a config.json describes.

    Args:
        config: the parsed file.
        where: its path, for error messages.
        dtype: the dtype of the weights. A model with bfloat16 weights computes in bfloat16, any other in float32.

    Raises:
        InputError: the architecture is not supported, or a field is missing, has the wrong type, or asks for a
            computation that is not supported.
    """
    family = _family(config, where)
    config = _DEFAULTS[family] | {key: value for key, value in config.items() if value is not None}
    for name, wanted in _MUST_BE.items():
        if config.get(name, wanted) != wanted:
            raise InputError(f"{where}: {name} is {config[name]!r}; only {wanted!r} is supported")
    if "sliding_attention" in config.get("layer_types", ()):
        raise InputError(f"{where}: layer_types holds sliding_attention; only full attention is supported")
    if "quantization_config" in config:
        raise InputError(f"{where}: the weights are quantised (quantization_config); convert the original weights")
    count = {name: _number(config, name, int, where) for name in _COUNTS}
    heads, hidden = count["num_attention_heads"], count["hidden_size"]
    positions = _number(config, "max_position_embeddings", int, where)
    theta, scaling = _rope(config, positions, where)
    try:
        model = ModelConfig(
            vocab_size=count["vocab_size"],
            hidden_size=hidden,
            num_layers=count["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=_number({"num_key_value_heads": heads, **config}, "num_key_value_heads", int, where),
            head_dim=_number({"head_dim": hidden // max(heads, 1), **config}, "head_dim", int, where),
            intermediate_size=count["intermediate_size"],
            rope_theta=theta,
            rope_scaling=scaling,
            rms_norm_eps=_number({"rms_norm_eps": 1e-6, **config}, "rms_norm_eps", float, where),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            tie_embeddings=_number({"tie_word_embeddings": False, **config}, "tie_word_embeddings", bool, where),
            # In config files with YaRN, this is often the context of pretraining.
            max_position_embeddings=max(positions, _stretched(scaling)),
            compute_dtype="bfloat16" if dtype.name == "bfloat16" else "float32",
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    size = sum(math.prod(weight.full_shape) for weight in weights(model))
    return replace(model, remat="full") if size > 1e9 else model


def to_config(model: ModelConfig) -> dict[str, Any]:
    """Returns a config.json for the model, with the fields that both transformers 4 and 5 read.

    Raises:
        InputError: the model has biases and norms of queries and keys, which no family has together.
    """
    if model.qkv_bias and model.qk_norm:
        raise InputError("model: no architecture of transformers has both qkv_bias and qk_norm; use one of them")
    family = "qwen3" if model.qk_norm else "qwen2" if model.qkv_bias else "llama"
    scaling = model.rope_scaling
    rope: dict[str, Any] | None = None
    if scaling is not None:
        names = {
            "llama3": ("low_freq_factor", "high_freq_factor"),
            "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate"),
        }[scaling.kind]
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        rope["original_max_position_embeddings"] = scaling.original_max_position_embeddings
        rope |= {name: value for name, value in asdict(scaling).items() if name in names and value is not None}
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,
        "rope_scaling": rope,
        "tie_word_embeddings": model.tie_embeddings,
    }


def _family(config: Mapping[str, Any], where: str) -> str:
    family, architectures = config.get("model_type"), config.get("architectures") or []
    if family not in _ARCHITECTURES or any(name != _ARCHITECTURES[family] for name in architectures):
        shown = f"architecture {architectures[0]}" if architectures else f"model_type {family!r}"
        raise InputError(f"{where}: {shown} is not supported; supported are {', '.join(_ARCHITECTURES.values())}")
    return family


def _number(config: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in config:
        raise InputError(f"{where}: field {name} is missing")
    value = config[name]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: field {name} is {value!r}; it must be of type {kind.__name__}")
    return value


def _rope(config: Mapping[str, Any], positions: int, where: str) -> tuple[float, RopeScaling | None]:
    """Returns theta and scaling from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(found, Mapping) or any(isinstance(value, Mapping) for value in found.values()):
        raise InputError(f"{where}: rope_parameters that differ between layers are not supported")
    found = {key: value for key, value in found.items() if value is not None}
    theta = _number({"rope_theta": 10_000.0, **config, **found}, "rope_theta", float, where)
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("llama3", "yarn"):
        raise InputError(f"{where}: rope_type {kind!r} is not supported; supported are default, llama3 and yarn")
    if found.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"{where}: partial_rotary_factor is {found['partial_rotary_factor']}; only 1.0 is supported")

    def read(name: str, default: float | None, of: type = float) -> Any:
        given = found if default is None else {name: default, **found}
        return _number(given, name, of, f"{where}: {kind} rope")

    original = read("original_max_position_embeddings", positions, int)
    factor = read("factor", positions / original if kind == "yarn" else None)
    try:
        if kind == "llama3":
            low, high = read("low_freq_factor", None), read("high_freq_factor", None)
            return theta, RopeScaling("llama3", factor, original, low, high)
        attention = read("attention_factor", None) if "attention_factor" in found else None
        if attention is None and found.get("mscale") and found.get("mscale_all_dim"):
            over, under = (0.1 * read(name, None) * math.log(factor) + 1 for name in ("mscale", "mscale_all_dim"))
            attention = over / under
        return theta, RopeScaling(
            "yarn",
            factor,
            original,
            beta_fast=read("beta_fast", 32.0),
            beta_slow=read("beta_slow", 1.0),
            attention_factor=attention,
            truncate=read("truncate", True, bool),
        )
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error


def _stretched(scaling: RopeScaling | None) -> int:
    """Returns the length of context that YaRN's scaling reaches, 0 without YaRN."""
    if scaling is None or scaling.kind != "yarn":
        return 0
    return int(scaling.factor * scaling.original_max_position_embeddings)


def _interval(shape: tuple[int, ...], index: tuple[slice, ...]) -> slice:
    """Returns the flattened positions of a block of `shape`, which must be contiguous."""
    counts = [part.stop - part.start for part in index]
    partial = [i for i, (count, length) in enumerate(zip(counts, shape, strict=True)) if count != length]
    if partial and any(count != 1 for count in counts[: partial[-1]]):
        raise ValueError(f"block {index} of {shape} is not contiguous")
    start = 0
    for length, part in zip(shape, index, strict=True):
        start = start * length + part.start
    return slice(start, start + math.prod(counts))
