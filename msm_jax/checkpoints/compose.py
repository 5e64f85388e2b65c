"""A model as it is on disk, base and adapters together: what sampling, merging and exporting start from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from msm_jax.checkpoints import adapters, peft, store
from msm_jax.checkpoints.adapters import Base, Stack, StackedAdapter
from msm_jax.errors import InputError
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Composed:
    """A model that has been found; its weights are not loaded yet.

    Attributes:
        checkpoint: what was named: a checkpoint with a model's own weights, or with an adapter.
        info, assets: of the checkpoint that was trained last; the tokenizer and template are those of the adapter.
        model: its shape.
        stack: the adapters and the base; None for a checkpoint with a model's own weights.
        foreign: the weights of an adapter in another library's format.
    """

    checkpoint: Path
    info: Mapping[str, Any]
    assets: Mapping[str, bytes]
    model: ModelConfig
    stack: Stack | None
    foreign: lora.Weights | None = None


def find(checkpoint: Path | str, adapter: Path | str = "") -> Composed:
    """The model of a checkpoint or run directory, with the adapters that it holds or with `adapter` on it.

    Args:
        checkpoint: with a model's own weights, or with an adapter, whose base is then where it says.
        adapter: a checkpoint of ours with an adapter, or a directory of PEFT's; `checkpoint` is its base.

    Raises:
        InputError: one of them is not there or damaged, or they do not fit each other.
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
            raise InputError(f"{path}: holds no adapter; name it with --checkpoint alone")
    stack = adapters.read(info, path)
    model = model_config(info, path)
    if stack is not None:
        stack = adapters.locate_base(stack, path, base)
        theirs = model_config(store.read_info(stack.base.path), stack.base.path)
        adapters.check_same_model(theirs, model, stack.base.path, path)
    return Composed(path, info, store.read_assets(path), model, stack)


def directory_of(adapter: Path | str) -> Path:
    """The directory that holds an adapter's files: one of PEFT's, or a checkpoint of ours that `adapter` names.

    Raises:
        InputError: it is neither.
    """
    path = Path(adapter)
    return path if peft.is_directory(path) else store.resolve(path)


def _foreign(path: Path, info: Mapping[str, Any], directory: Path) -> Composed:
    model = model_config(info, path)
    config, weights = peft.read(directory, model)
    assets = peft.assets(directory, store.read_assets(path))
    stack = Stack(Base(path, {}, model.compute_dtype), (StackedAdapter(config),))
    return Composed(directory, info, assets, model, stack, weights)


def model_config(info: Mapping[str, Any], path: Path) -> ModelConfig:
    """The shape of the model of a checkpoint.

    Raises:
        InputError: its info is not of this version.
    """
    try:
        return ModelConfig.from_json(info["model"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its info is not of a checkpoint of this version ({error})") from error


def load(found: Composed, mesh: Mesh) -> tuple[transformer.Params, tuple[Adapter, ...]]:
    """Parameters and the adapters to apply beside them, on `mesh`, in the model's compute dtype.

    That is what each product would cast them to; the final norm alone stays in float32.

    Raises:
        InputError: an array is damaged or has another shape, or the base is not the one that an adapter was trained on.
    """
    model = found.model
    target = adapters.frozen_target(model, mesh, model.compute_dtype)
    if found.stack is None:
        return store.load(found.checkpoint, {"params": target})["params"], ()
    # The adapters come first, since they are refused sooner where they do not fit.
    weights = load_adapters(found, mesh)
    params = adapters.load_base(found.stack, model, mesh, found.checkpoint)
    params = adapters.merge_below(params, found.stack, weights)
    # Rounded to the base's dtype before, as in training, so a wider one adds nothing but speed.
    params = jax.tree.map(lambda leaf, wanted: leaf.astype(wanted.dtype), params, target)
    weights = jax.tree.map(lambda leaf: leaf.astype(model.compute_dtype), weights)
    return params, adapters.beside(found.stack, weights)


def load_adapters(found: Composed, mesh: Mesh) -> tuple[lora.Weights, ...]:
    """The float32 weights of all adapters of a model, bottom first, on `mesh`."""
    assert found.stack is not None
    if found.foreign is None:
        return adapters.load_weights(found.checkpoint, found.stack, found.model, mesh)
    target = adapters.weights_target(found.stack.top, found.model, mesh)
    return (jax.tree.map(lambda leaf, wanted: jax.device_put(leaf, wanted.sharding), found.foreign, target),)
