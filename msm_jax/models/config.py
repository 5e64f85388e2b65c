"""The shape of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from msm_jax.errors import InputError

REMAT_POLICIES = ("none", "dots", "full", "offload")
ATTENTION = ("auto", "reference", "splash", "cudnn")
# The fields of a ModelConfig that say how it is computed. No config.json of transformers holds them.
RUN_SETTINGS = ("compute_dtype", "remat", "scan_layers", "attention")
# The fields that may differ from those of the checkpoint that a model starts from: its weights do not depend on them.
EXECUTION = (*RUN_SETTINGS, "max_position_embeddings")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those of pretraining; see `models.rotary`.

    `factor` is the stretch, and `original_max_position_embeddings` the context of pretraining. Kind "llama3" reads
    `low_freq_factor` and `high_freq_factor`; "yarn" reads the other fields. `attention_factor` multiplies sine and
    cosine; None stands for YaRN's default, 0.1 ln(factor) + 1.
    """

    kind: Literal["llama3", "yarn"]
    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        """Refuses factors below 1 and ranges of frequencies that are empty."""
        if self.kind not in ("llama3", "yarn"):
            raise InputError(f"rope_scaling.kind = {self.kind!r}; choose llama3 or yarn")
        if self.factor < 1 or self.original_max_position_embeddings < 1:
            raise InputError(
                f"rope_scaling: factor = {self.factor} and original_max_position_embeddings = "
                f"{self.original_max_position_embeddings} must both be at least 1"
            )
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise InputError(
                f"rope_scaling.high_freq_factor = {self.high_freq_factor} must be above low_freq_factor = "
                f"{self.low_freq_factor}"
            )
        if self.kind == "yarn" and not self.beta_fast >= self.beta_slow > 0:
            raise InputError(
                f"rope_scaling.beta_fast = {self.beta_fast} must be at least beta_slow = {self.beta_slow}, above 0"
            )

    @property
    def attention_scale(self) -> float:
        """The factor of sine and cosine (YaRN, arXiv 2309.00071, section 3.4)."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer with RMSNorm, rotary positions, grouped-query attention and SwiGLU.

    Field names follow Hugging Face's Llama and Qwen configurations. `vocab_size` is the number of rows of the
    embedding; a tokenizer may have fewer ids. A model that is trained from scratch has float32 parameters.
    `compute_dtype` is the dtype of matrix products and activations; norms, softmax and loss stay in float32.
    `remat` chooses what the backward pass recomputes in each layer: "none" recomputes nothing, "dots" everything but
    matrix products, "full" the whole layer from its input, and "offload" does so with the inputs in the host's memory.
    `attention` names the backend for packed rows in training; "auto" chooses by device (`models.attention`).
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    max_position_embeddings: int = 2048
    compute_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True
    attention: str = "auto"

    def __post_init__(self) -> None:
        """Refuses sizes that do not fit each other and names that do not exist."""
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
                     "intermediate_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} = {getattr(self, name)}; it must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"model.num_heads = {self.num_heads} is not a multiple of model.num_kv_heads = {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise InputError(f"model.head_dim = {self.head_dim} is odd; rotary positions need an even size")
        if self.remat not in REMAT_POLICIES:
            raise InputError(f"model.remat = {self.remat!r}; choose one of {', '.join(REMAT_POLICIES)}")
        if self.attention not in ATTENTION:
            raise InputError(f"model.attention = {self.attention!r}; choose one of {', '.join(ATTENTION)}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise InputError(f"model.compute_dtype = {self.compute_dtype!r}; choose float32 or bfloat16")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelConfig:
        """Returns the config that `dataclasses.asdict` turned into `value`.

        Raises:
            InputError: a field is unknown, missing or out of range.
        """
        unknown = sorted(set(value) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"model has no field {unknown[0]!r}; it has {', '.join(f.name for f in fields(cls))}")
        scaling = value.get("rope_scaling")
        if isinstance(scaling, Mapping):
            scaling = _dataclass(RopeScaling, scaling, "model.rope_scaling")
        return _dataclass(cls, {**value, "rope_scaling": scaling}, "model")

    def overridden(self, overrides: Mapping[str, Any]) -> ModelConfig:
        """Returns the config with some fields changed.

        Raises:
            InputError: a field is unknown or out of range.
        """
        return ModelConfig.from_json({**asdict(self), **overrides})


def _dataclass(cls: Any, value: Mapping[str, Any], where: str) -> Any:
    try:
        return cls(**value)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'{cls.__name__}.')}") from error
