"""A model on disk, as base and adapters together. Sampling, merging and exporting start from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from msm_jax.checkpoints import adapters, peft, store
from msm_jax.checkpoints.adapters import Base, Stack, StackedAdapter
from msm_jax.data import templates
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.foundation import storage
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter


@dataclass(frozen=True)
class Composed:
    """A model that has been found, before its weights are loaded.

    Attributes:
        checkpoint: the checkpoint that was named, with a model's own weights or with an adapter.
        info: the info of the checkpoint that was trained last.
        assets: its assets; tokenizer and template are those of the adapter.
        model: the shape of the model.
        stack: the adapters and their base; None for a checkpoint with a model's own weights.
        foreign: the weights of an adapter in another library's format.
    """

    checkpoint: Path
    info: Mapping[str, Any]
    assets: Mapping[str, bytes]
    model: ModelConfig
    stack: Stack | None
    foreign: lora.Weights | None = None


def read_texts(found: Composed) -> tuple[Tokenizer, ChatTemplate | None]:
    """Returns the tokenizer of a model, and its chat template if it has one.

    Raises:
        InputError: one of them is missing or damaged.
    """
    where = f"{found.checkpoint}/"
    return Tokenizer.from_files(found.assets, where), templates.of_checkpoint(found.info, found.assets, where)


def find(checkpoint: Path | str, adapter: Path | str = "") -> Composed:
    """Finds the model of a checkpoint or run directory, with the adapters that it holds, or with `adapter`.

    Args:
        checkpoint: a checkpoint with a model's own weights, or with an adapter that records where its base is.
        adapter: one of our checkpoints with an adapter, or a PEFT directory; `checkpoint` is its base.

    Raises:
        InputError: one of them does not exist or is damaged, or they do not fit each other.
    """
    path = store.resolve(checkpoint)
    info = store.read_info(path)
    base: Path | str = ""
    if adapter:
        adapters.check_is_base(path)
        directory = directory_of(adapter)
        if peft.is_directory(directory):
            return _foreign(path, info, directory)
        base, path = path, directory
        info = store.read_info(path)
        if adapters.read(info, path) is None:
            raise InputError(f"{path}: holds no adapter; pass it as --checkpoint, without --adapter")
    stack = adapters.read(info, path)
    model = model_config(info, path)
    if stack is not None:
        stack = adapters.locate_base(stack, path, base)
        theirs = model_config(store.read_info(stack.base.path), stack.base.path)
        adapters.check_same_model(theirs, model, stack.base.path, path)
    return Composed(path, info, store.read_assets(path), model, stack)


def directory_of(adapter: Path | str) -> Path:
    """Returns the directory that holds an adapter's files: a PEFT directory, or the checkpoint that `adapter` names.

    Raises:
        InputError: it is neither.
    """
    if storage.is_url(adapter):
        return store.resolve(adapter)
    path = Path(adapter)
    return path if peft.is_directory(path) else store.resolve(path)


def _foreign(path: Path, info: Mapping[str, Any], directory: Path) -> Composed:
    model = model_config(info, path)
    config, weights = peft.read(directory, model)
    assets = peft.assets(directory, store.read_assets(path))
    stack = Stack(Base(path, {}, model.compute_dtype), (StackedAdapter(config),))
    return Composed(directory, info, assets, model, stack, weights)


def model_config(info: Mapping[str, Any], path: Path) -> ModelConfig:
    """Returns the shape of a checkpoint's model.

    Raises:
        InputError: the info was written by another version.
    """
    try:
        return ModelConfig.from_json(info["model"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its info is not that of a checkpoint of this version ({error})") from error


def load(found: Composed, mesh: Mesh) -> tuple[transformer.Params, tuple[Adapter, ...]]:
    """Loads the parameters and the adapters to apply beside them onto `mesh`, in the model's compute dtype.

    Each product would cast them to this dtype anyway. Only the final norm stays in float32.

    Raises:
        InputError: an array is damaged or has another shape, or an adapter was trained on another base.
    """
    model = found.model
    target = adapters.frozen_target(model, mesh, model.compute_dtype)
    if found.stack is None:
        return store.load(found.checkpoint, {"params": target})["params"], ()
    # The adapters are loaded first, because one that does not fit is then refused sooner.
    weights = load_adapters(found, mesh)
    params = adapters.load_base(found.stack, model, mesh, found.checkpoint)
    params = adapters.merge_below(params, found.stack, weights)
    # The values stay rounded to the base's dtype, as in training; a wider compute dtype only saves casts.
    params = jax.tree.map(lambda leaf, wanted: leaf.astype(wanted.dtype), params, target)
    weights = jax.tree.map(lambda leaf: leaf.astype(model.compute_dtype), weights)
    return params, adapters.beside(found.stack, weights)


def load_adapters(found: Composed, mesh: Mesh) -> tuple[lora.Weights, ...]:
    """Loads the float32 weights of all adapters of a model onto `mesh`, bottom first."""
    assert found.stack is not None
    if found.foreign is None:
        return adapters.load_weights(found.checkpoint, found.stack, found.model, mesh)
    target = adapters.weights_target(found.stack.top, found.model, mesh)
    return (jax.tree.map(lambda leaf, wanted: jax.device_put(leaf, wanted.sharding), found.foreign, target),)
