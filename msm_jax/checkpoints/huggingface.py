"""A Hugging Face directory as a source of weights, which are read by rectangles from its mapped files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from msm_jax.checkpoints import assets, safetensors
from msm_jax.checkpoints.safetensors import Tensor
from msm_jax.errors import InputError
from msm_jax.foundation import storage
from msm_jax.models import families
from msm_jax.models.config import ModelConfig
from msm_jax.models.families import Weight


class Source(Protocol):
    """A source of weights to be converted, which are read in blocks.

    Attributes:
        where: the directory or file, for error messages and the manifest.
        model: the shape of the model.
    """

    where: Path
    model: ModelConfig

    @property
    def files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        ...

    @property
    def assets(self) -> Mapping[str, bytes]:
        """The files of tokenizer, template and configuration."""
        ...

    def dtype(self, weight: Weight) -> np.dtype:
        """Returns the dtype that holds all layers of a parameter without loss."""
        ...

    def read(self, weight: Weight, layer: int, index: tuple[slice, ...]) -> np.ndarray:
        """Returns the block `index` of one layer of our parameter; `index` has no axis of layers."""
        ...


class Directory:
    """The `Source` of a directory with config.json and weights in safetensors, in one file or in shards."""

    def __init__(self, path: Path | str, dtype: np.dtype | None = None) -> None:
        """Reads the configuration and the headers, and checks them against each other.

        Args:
            path: the directory.
            dtype: the dtype that the converted weights will have; None for their own.

        Raises:
            InputError: a file is missing or damaged, the architecture is not supported, or the tensors are not those
                of the model that config.json describes.
        """
        self.where = Path(path)
        if not self.where.is_dir():
            raise InputError(f"{self.where}: no such directory; choose one with config.json and safetensors")
        config = storage.read_json(self.where / "config.json")
        if not isinstance(config, dict):
            raise InputError(f"{self.where / 'config.json'}: is not a JSON object; copy it again")
        where = str(self.where / "config.json")
        self.model = families.from_config(config, where, np.dtype(np.float32))
        self._tensors = check(self.model, safetensors.read_directory(self.where), where)
        embedding = families.weights(self.model)[0]
        self.model = families.from_config(config, where, dtype or self.dtype(embedding))
        self.files = sorted({tensor.file for tensor in self._tensors.values()})
        self.assets = assets.read(self.where)
        self._reader = safetensors.Reader()

    def dtype(self, weight: Weight) -> np.dtype:
        """Returns the dtype of the tensors, or float32 if layers differ."""
        found = {self._tensors[weight.tensor(layer)].dtype for layer in range(max(weight.layers, 1))}
        return found.pop() if len(found) == 1 else np.dtype(np.float32)

    def read(self, weight: Weight, layer: int, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a block, see `Source.read`; it is a view of the mapped file if the layout allows it."""
        rows, columns = weight.rectangle(index)
        return weight.from_hf(self._reader.block(self._tensors[weight.tensor(layer)], rows, columns), index)


def check(model: ModelConfig, found: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Returns the tensors of the model, after checking that the files hold these and no others.

    Args:
        model: the model that config.json describes.
        found: the tensors of the files.
        where: the path of config.json, for error messages.

    Raises:
        InputError: a tensor is missing, has another shape, or does not belong to the model.
    """
    wanted = families.tensors(model)
    for name, (weight, _) in wanted.items():
        if name not in found:
            raise InputError(f"{where}: describes a model with tensor {name}, which no file of weights holds")
        if found[name].shape != weight.hf_shape:
            raise InputError(
                f"{found[name].file}: tensor {name} is {list(found[name].shape)}, but config.json says "
                f"{list(weight.hf_shape)}; copy the config.json of these weights"
            )
    for name in found.keys() - wanted.keys():
        # Old Llama checkpoints store the rotary frequencies, which follow from the configuration.
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if name == "lm_head.weight" and model.tie_embeddings:
            _check_tied(found[name], found["model.embed_tokens.weight"])
            continue
        raise InputError(f"{found[name].file}: holds tensor {name}, which config.json's model does not have")
    return {name: found[name] for name in wanted}


def _check_tied(head: Tensor, embedding: Tensor) -> None:
    """Refuses an output matrix in the file of a tied model, unless it equals the embedding."""
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    if same:
        reader, everything = safetensors.Reader(), slice(None)
        for start in range(0, head.shape[0], 4096):
            rows = slice(start, start + 4096)
            a, b = (reader.block(each, rows, everything).view(np.uint8) for each in (head, embedding))
            same = same and bool(np.array_equal(a, b))
    if not same:
        raise InputError(
            f"{head.file}: tensor lm_head.weight differs from the embedding, but config.json says tie_word_embeddings; "
            "correct config.json"
        )
