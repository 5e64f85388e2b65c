"""A Hugging Face directory as a source of weights: read by rectangles, straight from its mapped files."""

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
    """Weights to be converted, read in blocks.

    Attributes:
        where: the directory or file, for errors and the manifest.
        model: its shape.
    """

    where: Path
    model: ModelConfig

    @property
    def files(self) -> Sequence[Path]:
        """What the weights are read from."""
        ...

    @property
    def assets(self) -> Mapping[str, bytes]:
        """The files of tokenizer, template and configuration."""
        ...

    def dtype(self, weight: Weight) -> np.dtype:
        """The dtype that holds all of a parameter without loss."""
        ...

    def read(self, weight: Weight, layer: int, index: tuple[slice, ...]) -> np.ndarray:
        """A block of our parameter, of one layer; `index` leaves the layers' axis out."""
        ...


class Directory:
    """`Source` of a directory with config.json and weights in safetensors, one file or shards."""

    def __init__(self, path: Path | str, dtype: np.dtype | None = None) -> None:
        """Reads the configuration and the headers, and checks them against each other.

        Args:
            path: the directory.
            dtype: of the model that is made from it, where it is not the weights' own.

        Raises:
            InputError: a file is missing or damaged, the architecture is not supported, or a tensor is missing, too
                many or of another shape than the configuration says.
        """
        self.where = Path(path)
        if not self.where.is_dir():
            raise InputError(f"{self.where}: no such directory; name one with config.json and safetensors")
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
        """The tensors' own, or float32 where layers differ."""
        found = {self._tensors[weight.tensor(layer)].dtype for layer in range(max(weight.layers, 1))}
        return found.pop() if len(found) == 1 else np.dtype(np.float32)

    def read(self, weight: Weight, layer: int, index: tuple[slice, ...]) -> np.ndarray:
        """See `Source.read`; where nothing has to be rearranged it is a view of the mapped file."""
        rows, columns = weight.rectangle(index)
        return weight.from_hf(self._reader.block(self._tensors[weight.tensor(layer)], rows, columns), index)


def check(model: ModelConfig, found: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors that the model needs.

    Args:
        model: from the configuration.
        found: the tensors of the files.
        where: the configuration's path, for errors.

    Raises:
        InputError: a tensor is missing, of another shape, or none of this model's.
    """
    wanted = families.tensors(model)
    for name, (weight, _) in wanted.items():
        if name not in found:
            raise InputError(f"{where}: makes a model with a tensor {name}, which no file of weights holds")
        if found[name].shape != weight.hf_shape:
            raise InputError(
                f"{found[name].file}: tensor {name} is {list(found[name].shape)} and by config.json "
                f"{list(weight.hf_shape)}; copy the config.json of these weights"
            )
    for name in found.keys() - wanted.keys():
        # Old Llama checkpoints store the rotary frequencies, which follow from the configuration.
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if name == "lm_head.weight" and model.tie_embeddings:
            _check_tied(found[name], found["model.embed_tokens.weight"])
            continue
        raise InputError(f"{found[name].file}: holds tensor {name}, which the model of config.json does not have")
    return {name: found[name] for name in wanted}


def _check_tied(head: Tensor, embedding: Tensor) -> None:
    """Accepts an output matrix in a tied model's file where it is the embedding once more."""
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    if same:
        reader, everything = safetensors.Reader(), slice(None)
        for start in range(0, head.shape[0], 4096):
            rows = slice(start, start + 4096)
            a, b = (reader.block(each, rows, everything).view(np.uint8) for each in (head, embedding))
            same = same and bool(np.array_equal(a, b))
    if not same:
        raise InputError(
            f"{head.file}: tensor lm_head.weight is not the embedding, but config.json says tie_word_embeddings; "
            "correct config.json"
        )
