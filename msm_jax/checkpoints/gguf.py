"""GGUF files of the Llama family as a source of weights, which are dequantised by rows."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np

from msm_jax.checkpoints import assets as files
from msm_jax.checkpoints import gguf_tokenizer
from msm_jax.errors import InputError
from msm_jax.foundation import storage
from msm_jax.models import families, rotary
from msm_jax.models.config import ModelConfig, RopeScaling
from msm_jax.models.families import Weight

# The tensor of the numbers by which Llama 3.1's scaling divides the frequencies.
_ROPE_DIVISORS = "rope_freqs.weight"
_EXACT = {"F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}


class File:
    """The `Source` of a GGUF file; quantised tensors become float32."""

    def __init__(self, path: Path | str, dtype: np.dtype | None = None) -> None:
        """Reads the file's fields and its list of tensors, and checks them against each other.

        Args:
            path: the file.
            dtype: the dtype that the converted weights will have; None for their own.

        Raises:
            InputError: the file does not exist, is not a GGUF file or is cut off; its architecture is not supported;
                its tensors are not those of its model; or its tokenizer cannot be rebuilt.
        """
        self.where = Path(path)
        self.files = [self.where]
        reader = _open(self.where)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        named = {tensor.name: tensor for tensor in reader.tensors}
        divisors = named.pop(_ROPE_DIVISORS, None)
        model = _model(fields, "output.weight" not in named, divisors, self.where)
        self._tensors = _match(model, named, self.where)
        stored = dtype or self._stored("model.embed_tokens.weight")
        config = families.to_config(model) | {"torch_dtype": stored.name} | gguf_tokenizer.token_ids(fields)
        self.model = families.from_config(config, str(self.where), stored)
        self.assets = gguf_tokenizer.assets(fields, self.where) | {files.CONFIG: storage.json_bytes(config)}

    def dtype(self, weight: Weight) -> np.dtype:
        """Returns the dtype of a parameter whose layers all have one half-precision dtype, float32 for any other."""
        found = {self._stored(weight.tensor(layer)) for layer in range(max(weight.layers, 1))}
        return found.pop() if len(found) == 1 else np.dtype(np.float32)

    def _stored(self, name: str) -> np.dtype:
        return _EXACT.get(self._tensors[name].tensor_type.name, np.dtype(np.float32))

    def read(self, weight: Weight, layer: int, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a block, see `Source.read`."""
        tensor = self._tensors[weight.tensor(layer)]
        rows, columns = weight.rectangle(index)
        data = tensor.data if tensor.data.ndim == 2 else tensor.data[None]
        if weight.parameter.gguf_interleaved:
            # llama.cpp interleaves the two halves of each head's rows.
            heads, size = weight.shape[1:]
            order = np.arange(heads * size).reshape(heads, size // 2, 2).swapaxes(1, 2).reshape(-1)
            data = data[order[rows]]
        else:
            data = data[rows]
        block = gguf.dequantize(data, tensor.tensor_type)[:, columns]
        return weight.from_hf(block, index)


def _open(path: Path) -> gguf.GGUFReader:
    try:
        with open(path, "rb") as stream:
            magic = stream.read(4)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if magic != b"GGUF":
        raise InputError(f"{path}: is not a GGUF file (it begins with {magic!r}); choose another file")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise InputError(f"{path}: is cut off or damaged ({error}); copy it again") from error
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            raise InputError(
                f"{path}: is cut off: tensor {tensor.name} ends at byte {tensor.data_offset + tensor.n_bytes}, but the "
                f"file has {size} bytes; copy it again"
            )
    return reader


def _model(fields: Mapping[str, Any], tied: bool, divisors: Any, where: Path) -> ModelConfig:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise InputError(f"{where}: architecture {architecture!r} is not supported, only llama")
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise InputError(f"{where}: llama.rope.scaling.type {scaling!r} is not supported, only none")

    def read(name: str) -> Any:
        if f"llama.{name}" not in fields:
            raise InputError(f"{where}: field llama.{name} is missing; copy the file again")
        return fields[f"llama.{name}"]

    heads, hidden = read("attention.head_count"), read("embedding_length")
    model = ModelConfig(
        vocab_size=fields.get("llama.vocab_size") or len(fields.get("tokenizer.ggml.tokens", ())),
        hidden_size=hidden,
        num_layers=read("block_count"),
        num_heads=heads,
        num_kv_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=fields.get("llama.attention.key_length", hidden // heads),
        intermediate_size=read("feed_forward_length"),
        rope_theta=float(fields.get("llama.rope.freq_base", 10_000.0)),
        # GGUF stores float32; the number in the original config.json has few digits.
        rms_norm_eps=float(f"{read('attention.layer_norm_rms_epsilon'):.6g}"),
        tie_embeddings=tied,
        max_position_embeddings=read("context_length"),
    )
    if divisors is None:
        return model
    return ModelConfig(**{**vars(model), "rope_scaling": _scaling(model, divisors, where)})


def _scaling(model: ModelConfig, divisors: Any, where: Path) -> RopeScaling:
    """Returns Llama 3.1's scaling, from the numbers by which it divides the frequencies."""
    given = np.asarray(divisors.data, np.float32)
    scaling = RopeScaling("llama3", float(given.max()), 8192)
    plain, scaled = (rotary.frequencies(model.head_dim, model.rope_theta, each)[0] for each in (None, scaling))
    if given.shape != plain.shape or not np.allclose(plain / scaled, given, rtol=1e-3):
        raise InputError(f"{where}: tensor {_ROPE_DIVISORS} is not that of Llama 3.1's scaling, the only supported one")
    return scaling


def _match(model: ModelConfig, named: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Returns the file's tensors by their names in transformers; refuses missing and additional tensors."""
    wanted = families.tensors(model)
    ours = {tensor_name(weight, layer): name for name, (weight, layer) in wanted.items()}
    for name, tensor in named.items():
        if name not in ours:
            raise InputError(f"{where}: holds tensor {name}, which the model that its fields describe does not have")
        shape, needed = tuple(int(n) for n in reversed(tensor.shape)), wanted[ours[name]][0].hf_shape
        if shape != needed:
            raise InputError(f"{where}: tensor {name} is {list(shape)}, but the file's fields say {list(needed)}")
    for name, hf in ours.items():
        if name not in named:
            raise InputError(f"{where}: lacks tensor {name} ({hf} in transformers); copy the file again")
    return {ours[name]: tensor for name, tensor in named.items()}


def tensor_name(weight: Weight, layer: int) -> str:
    """Returns the name in GGUF files of a parameter's tensor; `layer` is ignored if it belongs to no layer."""
    return f"blk.{layer}.{weight.parameter.gguf_name}" if weight.layers else weight.parameter.gguf_name
