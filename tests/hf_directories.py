"""Small Hugging Face directories with random weights and a tokenizer, made without torch."""

import json
import math

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


def write_sparse(directory, model, shards, dtype="BF16"):
    """A checkpoint of the model's exact shapes that takes no space: headers, and holes where the weights would be."""
    config = families.to_config(model) | {"torch_dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(config))
    named = list(families.tensors(model).items())
    size = safetensors.DTYPES[dtype].itemsize
    total = sum(math.prod(weight.hf_shape) for _, (weight, _) in named) * size
    placed, files = {}, [{}]
    for name, (weight, _) in named:
        if sum(end for _, end in (e["data_offsets"] for e in files[-1].values())) and (
            max(e["data_offsets"][1] for e in files[-1].values()) > total / shards
        ):
            files.append({})
        start = max((e["data_offsets"][1] for e in files[-1].values()), default=0)
        end = start + math.prod(weight.hf_shape) * size
        files[-1][name] = {"dtype": dtype, "shape": list(weight.hf_shape), "data_offsets": [start, end]}
        placed[name] = f"model-{len(files):05d}.safetensors"
    for number, header in enumerate(files, 1):
        text = json.dumps(header).encode()
        with open(directory / f"model-{number:05d}.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + max(e["data_offsets"][1] for e in header.values()))
    (directory / safetensors.INDEX_FILE).write_text(json.dumps({"weight_map": placed}))
