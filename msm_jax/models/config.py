"""The shape of a model."""

from __future__ import annotations

from dataclasses import dataclass

from msm_jax.errors import InputError

REMAT_POLICIES = ("none", "dots", "full")


@dataclass(frozen=True)
class ModelConfig:
    """Decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    Field names follow Hugging Face's Llama and Qwen configurations. Parameters are float32 when trained from scratch;
    `compute_dtype` is the dtype of matrix products and activations (norms, softmax and loss stay in float32).
    `remat` chooses what the backward pass recomputes in each layer: "none" nothing, "dots" everything but matrix
    products, "full" the whole layer from its input.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    max_position_embeddings: int = 2048
    compute_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        """Refuse shapes that cannot work."""
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
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise InputError(f"model.compute_dtype = {self.compute_dtype!r}; choose float32 or bfloat16")
