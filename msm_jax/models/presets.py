"""Named model sizes. The shapes are those of the public checkpoints' config files."""

from __future__ import annotations

from dataclasses import asdict, replace

from msm_jax.errors import InputError
from msm_jax.models.config import ModelConfig, RopeScaling


def _llama(
    vocab: int, d: int, layers: int, heads: int, kv: int, head: int, f: int, tie: bool, theta: float
) -> ModelConfig:
    return ModelConfig(
        vocab, d, layers, heads, kv, head, f, rope_theta=theta, rms_norm_eps=1e-5, tie_embeddings=tie,
        max_position_embeddings=8192, compute_dtype="bfloat16", remat="full",
    )


def _llama3(d: int, layers: int, heads: int, head: int, f: int, tie: bool, stretch: float) -> ModelConfig:
    plain = _llama(128_256, d, layers, heads, 8, head, f, tie, 5e5)
    return replace(plain, rope_scaling=RopeScaling("llama3", stretch, 8192), max_position_embeddings=131_072)


def _qwen(
    vocab: int, d: int, layers: int, heads: int, kv: int, head: int, f: int, tie: bool, three: bool
) -> ModelConfig:
    return ModelConfig(
        vocab, d, layers, heads, kv, head, f, rope_theta=1e6, rms_norm_eps=1e-6, tie_embeddings=tie,
        qkv_bias=not three, qk_norm=three, max_position_embeddings=32_768, compute_dtype="bfloat16", remat="full",
    )


PRESETS: dict[str, ModelConfig] = {
    # Small models that are trained from scratch here; the tokenizer sets their vocabulary.
    "mini-0.3m": ModelConfig(2048, 64, 3, 4, 4, 16, 192, max_position_embeddings=512, scan_layers=False),
    "mini-1m": ModelConfig(2048, 128, 4, 4, 4, 32, 384, max_position_embeddings=1024, scan_layers=False),
    "mini-15m": ModelConfig(8192, 384, 6, 6, 6, 64, 1152, max_position_embeddings=2048),
    "smollm2-135m": _llama(49_152, 576, 30, 9, 3, 64, 1536, True, 1e5),
    "smollm2-360m": _llama(49_152, 960, 32, 15, 5, 64, 2560, True, 1e5),
    "smollm2-1.7b": _llama(49_152, 2048, 24, 32, 32, 64, 8192, True, 1.3e5),
    "llama3.2-1b": _llama3(2048, 16, 32, 64, 8192, True, 32.0),
    "llama3.2-3b": _llama3(3072, 28, 24, 128, 8192, True, 32.0),
    "llama3.1-8b": _llama3(4096, 32, 32, 128, 14_336, False, 8.0),
    "qwen2.5-0.5b": _qwen(151_936, 896, 24, 14, 2, 64, 4864, True, False),
    "qwen2.5-1.5b": _qwen(151_936, 1536, 28, 12, 2, 128, 8960, True, False),
    "qwen2.5-7b": _qwen(152_064, 3584, 28, 28, 4, 128, 18_944, False, False),
    "qwen2.5-14b": _qwen(152_064, 5120, 48, 40, 8, 128, 13_824, False, False),
    "qwen2.5-32b": _qwen(152_064, 5120, 64, 40, 8, 128, 27_648, False, False),
    "qwen3-0.6b": _qwen(151_936, 1024, 28, 16, 8, 128, 3072, True, True),
    "qwen3-1.7b": _qwen(151_936, 2048, 28, 16, 8, 128, 6144, True, True),
    "qwen3-4b": _qwen(151_936, 2560, 36, 32, 8, 128, 9728, True, True),
    "qwen3-8b": _qwen(151_936, 4096, 36, 32, 8, 128, 12_288, False, True),
    "qwen3-14b": _qwen(151_936, 5120, 40, 40, 8, 128, 17_408, False, True),
    "qwen3-32b": _qwen(151_936, 5120, 64, 64, 8, 128, 25_600, False, True),
}


def preset(name: str, **overrides: object) -> ModelConfig:
    """Returns the config of a preset, with some fields replaced.

    Raises:
        InputError: no preset or no field has that name.
    """
    if name not in PRESETS:
        raise InputError(f"no model preset is named {name!r}; choose one of {', '.join(PRESETS)}")
    return ModelConfig.from_json({**asdict(PRESETS[name]), **overrides})
