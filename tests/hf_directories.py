"""Small Hugging Face directories with random weights and a tokenizer, made without torch."""

import json

import jax.numpy as jnp
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from msm_jax.checkpoints import safetensors
from msm_jax.models import families
from msm_jax.models.config import ModelConfig

BFLOAT16 = np.dtype(jnp.bfloat16)
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# (fields of the model) by family; tied and untied, with and without biases and norms.
SHAPES = {
    "llama": {"tie_embeddings": False},
    "qwen2": {"qkv_bias": True, "num_kv_heads": 1},
    "qwen3": {"qk_norm": True, "head_dim": 16},
}


def model(family="llama", vocab_size=300, **overrides):
    fields = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "intermediate_size": 48}
    return ModelConfig(vocab_size, 32, **{**fields, **SHAPES[family], "max_position_embeddings": 256, **overrides})


def tokenizer_json(size=290):
    """A byte-level BPE of `size` ids; its first are <|end|> and <|user|>."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|end|>", "<|user|>", "<|assistant|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(["the cat sat on the mat and that was that"] * 20, trainer)
    return made.to_str()


def write(directory, config, dtype=BFLOAT16, shard_bytes=40_000, tokenizer=True, seed=0):
    """A directory as transformers would save it: several shards, config, tokenizer, template, generation settings."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    planned = [safetensors.Planned(name, dtype, w.hf_shape) for name, (w, _) in families.tensors(config).items()]

    def blocks(tensor):
        return [(rng.normal(size=tensor.shape) * 0.1 + 0.5).astype(dtype)]

    safetensors.write_directory(directory, planned, blocks, shard_bytes)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    (directory / "config.json").write_text(
        json.dumps(families.to_config(config) | ids | {"torch_dtype": dtype.name})
    )
    if tokenizer:
        (directory / "tokenizer.json").write_text(tokenizer_json())
        named = {"eos_token": "<|end|>", "bos_token": "<|end|>", "chat_template": TEMPLATE}
        (directory / "tokenizer_config.json").write_text(json.dumps(named))
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1]}))
    return directory
