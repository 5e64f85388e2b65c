"""Writes one of our checkpoints as a Hugging Face directory, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msm_jax.checkpoints import assets as files
from msm_jax.checkpoints import card, safetensors, slices, store
from msm_jax.checkpoints.safetensors import Planned
from msm_jax.data import encoding, templates
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.foundation import storage
from msm_jax.models import families
from msm_jax.models.config import RUN_SETTINGS, ModelConfig
from msm_jax.models.families import Weight

# The largest file of weights, the same as in transformers.
SHARD_BYTES = 5 * 10**9
# A layer's matrix of up to this size is transposed in one piece.
_BLOCK_BYTES = 256 * 2**20


def write(
    checkpoint: Path | str, directory: Path, dtype: np.dtype | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes the whole directory or nothing; keeps at most one layer's matrix of the weights in memory.

    Args:
        checkpoint: a checkpoint or run directory.
        directory: must not exist, or must be empty.
        dtype: the dtype of the written weights; None for the checkpoint's own.
        shard_bytes: the largest size of a file of weights.

    Raises:
        InputError: there is no checkpoint, it is damaged, no architecture of transformers has its shape, or
            `directory` is not empty.
        WorkError: the directory cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(directory)
    path = store.resolve(checkpoint)
    info, assets = store.read_info(path), store.read_assets(path)
    model = ModelConfig.from_json(info["model"])
    reader = slices.Reader(path)
    for weight in families.weights(model):
        found = reader.leaves[weight.path][0] if weight.path in reader.leaves else "missing"
        if found != weight.full_shape:
            raise InputError(
                f"{path}: parameter {'.'.join(weight.path)} is {found}, but the checkpoint's info says "
                f"{weight.full_shape}; it is damaged, use another checkpoint"
            )
    tensors = families.tensors(model)
    planned = [Planned(n, dtype or reader.leaves[w.path][1], w.hf_shape) for n, (w, _) in tensors.items()]
    tokenizer = None
    if any(name in assets for name in files.TOKENIZERS):
        tokenizer = Tokenizer.from_files(assets, f"{path}/")
    beside = _beside(assets, tokenizer, templates.of_checkpoint(info, assets, f"{path}/"), path)
    beside["config.json"] = _config(assets, model, planned[0].dtype, _token_ids(tokenizer), path)
    beside["README.md"] = card.of_model(directory.name, path, model, planned[0].dtype).encode()

    def blocks(tensor: Planned) -> Iterator[np.ndarray]:
        weight, layer = tensors[tensor.name]
        for index in _rows(weight, tensor.dtype):
            leading = (layer,) if weight.layers else ()
            yield weight.to_hf(reader.read(weight.path, (*leading, *index))).astype(tensor.dtype, copy=False)

    with storage.new_directory(directory) as temporary:
        safetensors.write_directory(temporary, planned, blocks, shard_bytes)
        for name, content in beside.items():
            (temporary / name).write_bytes(content)


def _rows(weight: Weight, dtype: np.dtype) -> Iterator[tuple[slice, ...]]:
    """Yields the blocks of our parameter (of one layer) that are rows of their tensor, in the order of the rows."""
    axis = weight.inputs if weight.inputs < len(weight.shape) else 0
    length = weight.shape[axis]
    row = int(np.prod(weight.shape)) // length * dtype.itemsize
    step = max(1, (_BLOCK_BYTES if weight.layers else slices.SLICE_BYTES) // row)
    whole = tuple(slice(0, n) for n in weight.shape)
    for start in range(0, length, step):
        yield (*whole[:axis], slice(start, min(start + step, length)), *whole[axis + 1 :])


def _config(
    assets: Mapping[str, bytes], model: ModelConfig, dtype: np.dtype, ids: Mapping[str, Any], path: Path
) -> bytes:
    """Returns config.json: the source's own file, changed only where it does not describe this model and dtype."""
    config: dict[str, Any]
    if files.CONFIG in assets:
        config = files.parse(assets, files.CONFIG, path)
        described = families.from_config(config, str(path / files.CONFIG), dtype)
        same = dataclasses.replace(described, **{name: getattr(model, name) for name in RUN_SETTINGS}) == model
        names = [name for name in ("dtype", "torch_dtype") if name in config] or ["torch_dtype"]
        if same and all(config.get(name) == dtype.name for name in names):
            return assets[files.CONFIG]
        if not same:
            config = {key: value for key, value in config.items() if key != "rope_parameters"}
            config |= families.to_config(model)
    else:
        config = families.to_config(model) | dict(ids)
        names = ["torch_dtype"]
    return storage.json_bytes(config | dict.fromkeys(names, dtype.name))


def _beside(
    assets: Mapping[str, bytes], tokenizer: Tokenizer | None, template: ChatTemplate | None, path: Path
) -> dict[str, bytes]:
    """Returns the other files: the source's own, with the trained chat template and the token that ends its turns."""
    beside = templates.for_transformers({name: held for name, held in assets.items() if name != files.CONFIG})
    if tokenizer is None:
        return beside
    held = [files.parse(assets, name, path) for name in (files.GENERATION, files.CONFIG) if name in assets]
    named: int | list[int] = next(
        (value["eos_token_id"] for value in held if value.get("eos_token_id") is not None), []
    )
    listed = named if isinstance(named, list) else [named]
    own = encoding.stop_ids(tokenizer, None)
    try:
        turn_end = [i for i in encoding.stop_ids(tokenizer, template) if i not in own and i not in listed]
    except InputError:
        # No chats were trained with a template whose turns cannot be told apart, so no token ends them.
        turn_end = []
    if files.GENERATION not in assets and not held:
        beside[files.GENERATION] = storage.json_bytes(_token_ids(tokenizer) | {"eos_token_id": [*own, *turn_end]})
    elif turn_end:
        before = held[0] if files.GENERATION in assets else {}
        beside[files.GENERATION] = storage.json_bytes(before | {"eos_token_id": [*listed, *turn_end]})
    return beside


def _token_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        return {}
    found = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    return {name: i for name, i in found.items() if i is not None}
