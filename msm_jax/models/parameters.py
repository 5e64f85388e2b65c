"""The table of the model's parameters, which every module reads that needs to know something about a parameter.

One row says how a parameter is shaped, sharded and initialised, and how Hugging Face and GGUF name and store it.
`transformer` creates the parameters in the order of the rows: Linen counts the calls of `self.param`, so that the order
and the number of rows decide the random numbers of each. LoRA adapters, FLOPs and memory traffic follow from the
matrices of a layer.

Readers look at `PARAMETERS` when they are called, not when they are imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from jax.nn import initializers
from jax.nn.initializers import Initializer

from msm_jax.models.config import ModelConfig

# The fields of a ModelConfig that give the lengths of axes.
V, D, H, G, K, F = "vocab_size", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size"


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    Attributes:
        name: the parameter's key in the tree of parameters.
        lengths: the field of `ModelConfig` that gives the length of each axis, without the axis of layers.
        axes: the logical name of each axis (`parallel.sharding.RULES`).
        initial: returns the initialiser of the float32 values for a model.
        layout: how Hugging Face stores it. A "matrix" is [outputs, inputs] there, with each side flattened to one axis;
            ours has the inputs first. A "table" is stored as ours is. A "vector" is flattened to one axis.
        hf_name: the tensor's name in transformers, below "model.layers.N." for a parameter of a layer.
        gguf_name: the tensor's name in GGUF files, below "blk.N." for a parameter of a layer.
        inputs: the number of leading axes of a matrix that are its inputs; the others are its outputs.
        in_layer: whether each layer has one. These are stacked on a leading axis.
        exists: returns whether a model has it; None for a parameter that every model has.
        gguf_interleaved: whether GGUF files of Llama models interleave the two halves of each head's rows.
    """

    name: str
    lengths: tuple[str, ...]
    axes: tuple[str, ...]
    initial: Callable[[ModelConfig], Initializer]
    layout: Literal["matrix", "table", "vector"]
    hf_name: str
    gguf_name: str
    inputs: int = 0
    in_layer: bool = True
    exists: Callable[[ModelConfig], bool] | None = None
    gguf_interleaved: bool = False

    @property
    def full_axes(self) -> tuple[str, ...]:
        """The logical axes, with the axis of layers for a parameter of a layer."""
        return ("layers", *self.axes) if self.in_layer else self.axes

    @property
    def sides(self) -> tuple[str, str]:
        """The logical axes of a matrix's inputs and outputs, each side flattened to one axis."""
        return self.axes[0], self.axes[self.inputs]

    @property
    def is_layer_matrix(self) -> bool:
        """Whether it is a matrix of a layer, which multiplies each token once."""
        return self.in_layer and self.layout == "matrix"

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Returns the shape without the axis of layers."""
        return tuple(getattr(config, length) for length in self.lengths)

    def side_sizes(self, config: ModelConfig) -> tuple[int, int]:
        """Returns the numbers of inputs and outputs of a matrix."""
        shape = self.shape(config)
        return math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :])


def _ones(_: ModelConfig) -> Initializer:
    return initializers.ones


def _zeros(_: ModelConfig) -> Initializer:
    return initializers.zeros


def _normal(*inputs: str, residual: bool = False) -> Callable[[ModelConfig], Initializer]:
    """Returns a normal initialiser with variance 1 / fan-in; the fan-in is the product of the fields `inputs`.

    A `residual` output is also scaled by 1 / sqrt(2 L), so that the variance of the hidden states does not grow with
    depth (GPT-2).
    """

    def initial(config: ModelConfig) -> Initializer:
        scale = (2 * config.num_layers) ** -0.5 if residual else 1.0
        return initializers.normal(scale * math.prod(getattr(config, name) for name in inputs) ** -0.5)

    return initial


def _untied(config: ModelConfig) -> bool:
    return not config.tie_embeddings


_BIASED, _NORMED = attrgetter("qkv_bias"), attrgetter("qk_norm")

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("embedding", (V, D), ("vocab", "embed"), _normal(D), "table",
              "model.embed_tokens.weight", "token_embd.weight", in_layer=False),
    Parameter("attention_norm", (D,), ("norm",), _ones, "vector", "input_layernorm.weight", "attn_norm.weight"),
    Parameter("query", (D, H, K), ("embed", "heads", "head_dim"), _normal(D), "matrix",
              "self_attn.q_proj.weight", "attn_q.weight", inputs=1, gguf_interleaved=True),
    Parameter("key", (D, G, K), ("embed", "kv_heads", "head_dim"), _normal(D), "matrix",
              "self_attn.k_proj.weight", "attn_k.weight", inputs=1, gguf_interleaved=True),
    Parameter("value", (D, G, K), ("embed", "kv_heads", "head_dim"), _normal(D), "matrix",
              "self_attn.v_proj.weight", "attn_v.weight", inputs=1),
    Parameter("query_bias", (H, K), ("heads", "head_dim"), _zeros, "vector",
              "self_attn.q_proj.bias", "attn_q.bias", exists=_BIASED),
    Parameter("key_bias", (G, K), ("kv_heads", "head_dim"), _zeros, "vector",
              "self_attn.k_proj.bias", "attn_k.bias", exists=_BIASED),
    Parameter("value_bias", (G, K), ("kv_heads", "head_dim"), _zeros, "vector",
              "self_attn.v_proj.bias", "attn_v.bias", exists=_BIASED),
    Parameter("query_norm", (K,), ("norm",), _ones, "vector",
              "self_attn.q_norm.weight", "attn_q_norm.weight", exists=_NORMED),
    Parameter("key_norm", (K,), ("norm",), _ones, "vector",
              "self_attn.k_norm.weight", "attn_k_norm.weight", exists=_NORMED),
    Parameter("attention_out", (H, K, D), ("heads", "head_dim", "embed"), _normal(H, K, residual=True), "matrix",
              "self_attn.o_proj.weight", "attn_output.weight", inputs=2),
    Parameter("mlp_norm", (D,), ("norm",), _ones, "vector", "post_attention_layernorm.weight", "ffn_norm.weight"),
    Parameter("gate", (D, F), ("embed", "mlp"), _normal(D), "matrix",
              "mlp.gate_proj.weight", "ffn_gate.weight", inputs=1),
    Parameter("up", (D, F), ("embed", "mlp"), _normal(D), "matrix", "mlp.up_proj.weight", "ffn_up.weight", inputs=1),
    Parameter("down", (F, D), ("mlp", "embed"), _normal(F, residual=True), "matrix",
              "mlp.down_proj.weight", "ffn_down.weight", inputs=1),
    Parameter("final_norm", (D,), ("norm",), _ones, "vector",
              "model.norm.weight", "output_norm.weight", in_layer=False),
    Parameter("output", (D, V), ("embed", "vocab"), _normal(D), "matrix",
              "lm_head.weight", "output.weight", inputs=1, in_layer=False, exists=_untied),
)  # fmt: skip


def of_model(config: ModelConfig) -> list[Parameter]:
    """Returns the rows of the parameters that a model has, in the order of the table."""
    return [row for row in PARAMETERS if row.exists is None or row.exists(config)]


def find(name: str) -> Parameter:
    """Returns the row of a parameter."""
    return next(row for row in PARAMETERS if row.name == name)


def layer_matrices() -> dict[str, Parameter]:
    """Returns the rows of the matrices of a layer by name: what a LoRA adapter may be applied to."""
    return {row.name: row for row in PARAMETERS if row.is_layer_matrix}
