"""Adapter checkpoints: low-rank adapters with a reference to their base in place of its weights.

Such a checkpoint holds the entry "adapter", the adapter that was trained last, and the entry "below", the frozen
adapters under it, bottom first. A frozen adapter is either applied beside the base, or merged into it each time the
checkpoint is loaded, so that the checkpoint stays small. The info holds "base" (the path of the base checkpoint, the
digest of each of its tensors, and the dtype in which it was used) and "adapters" (their settings, bottom first).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from msm_jax.checkpoints import store
from msm_jax.checkpoints.digest import digest
from msm_jax.errors import InputError
from msm_jax.foundation import mirror, storage
from msm_jax.models import lora, transformer
from msm_jax.models.config import EXECUTION, ModelConfig
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.parallel import sharding


@dataclass(frozen=True)
class Base:
    """The base of an adapter: its checkpoint, the digest of each tensor, and the dtype in which it is used.

    `digests` is empty if it is not known which base the adapter was trained on (an adapter of another library).
    """

    path: Path
    digests: Mapping[str, str]
    dtype: str


@dataclass(frozen=True)
class StackedAdapter:
    """An adapter of a stack: its settings, and whether it is merged into the base or applied beside it."""

    config: LoraConfig
    merged: bool = False


@dataclass(frozen=True)
class Stack:
    """The adapters on a base, bottom first; the last one is trained."""

    base: Base
    adapters: tuple[StackedAdapter, ...]

    @property
    def below(self) -> tuple[StackedAdapter, ...]:
        """All adapters but the trained one."""
        return self.adapters[:-1]

    @property
    def top(self) -> LoraConfig:
        """The settings of the trained adapter."""
        return self.adapters[-1].config


def to_info(stack: Stack, checkpoint: Path) -> dict[str, Any]:
    """Returns the entries of a checkpoint's info that describe its adapters and their base.

    They hold the base's path both from the root and from the checkpoint, so that a directory with both can be moved.
    """
    path = mirror.named(stack.base.path.absolute())
    return {
        "base": {
            "path": path,
            "relative": os.path.relpath(path, mirror.named(checkpoint.absolute())),
            "digests": dict(stack.base.digests),
            "dtype": stack.base.dtype,
        },
        "adapters": [dataclasses.asdict(adapter) for adapter in stack.adapters],
    }


def read(info: Mapping[str, Any], checkpoint: Path) -> Stack | None:
    """Returns the adapters of a checkpoint, or None if it holds a model's own weights.

    Raises:
        InputError: the info was written by another version.
    """
    if "adapters" not in info:
        return None
    try:
        stacked = tuple(
            StackedAdapter(LoraConfig(**{**one["config"], "targets": tuple(one["config"]["targets"])}), one["merged"])
            for one in info["adapters"]
        )
        base = info["base"]
        moved = checkpoint.absolute() / base["relative"]
        path = mirror.place(base["path"], "read") if storage.is_url(base["path"]) else Path(base["path"])
        if not path.exists() and moved.exists():
            path = moved.resolve()
        return Stack(Base(path, base["digests"], base["dtype"]), stacked)
    except (KeyError, TypeError) as error:
        raise InputError(f"{checkpoint}: its info is not that of an adapter of this version ({error})") from error


def locate_base(stack: Stack, checkpoint: Path, given: Path | str = "") -> Stack:
    """Returns the stack with the path of its base: `given`, or the path that the checkpoint records.

    Raises:
        InputError: there is no checkpoint at this path, or it holds an adapter itself.
    """
    url = mirror.url_of(stack.base.path)
    if not given and url is None and not stack.base.path.exists():
        raise InputError(
            f"{checkpoint}: its base {stack.base.path} does not exist; if it has moved, pass --checkpoint=BASE "
            f"--adapter={checkpoint}, or in a phase set init.base = BASE"
        )
    path = store.resolve(given or url or stack.base.path)
    check_is_base(path)
    return dataclasses.replace(stack, base=dataclasses.replace(stack.base, path=path))


def check_is_base(path: Path) -> None:
    """Refuses a checkpoint that holds an adapter, since a model's own weights are needed."""
    if "adapters" in store.read_info(path):
        raise InputError(f"{path}: holds an adapter, not a base; choose the checkpoint that it was trained on")


def check_same_model(base: ModelConfig, model: ModelConfig, base_path: Path, checkpoint: Path) -> None:
    """Refuses an adapter that was trained on a model of another shape.

    Raises:
        InputError: the shapes differ; the message names a field.
    """
    for field in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(model, field.name), getattr(base, field.name)
        if ours != theirs and field.name not in EXECUTION:
            raise InputError(
                f"{checkpoint}: its adapter is for a model with {field.name} = {ours}, but {base_path} has {theirs}; "
                "use the base it was trained on"
            )


def frozen_target(model: ModelConfig, mesh: Mesh, dtype: str) -> transformer.Params:
    """Returns abstract parameters in `dtype`, with shardings, for a model that is not trained.

    The final norm stays in float32, since it is applied in float32 whatever the compute dtype.
    """
    abstract = transformer.abstract_params(model)
    shardings = sharding.tree_shardings(mesh, transformer.logical_axes(abstract), abstract)

    def target(path: Any, leaf: Any, where: Any) -> jax.ShapeDtypeStruct:
        kept = path[-1].key == "final_norm"
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if kept else dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(target, abstract, shardings)


def weights_target(config: LoraConfig, model: ModelConfig, mesh: Mesh) -> lora.Weights:
    """Returns the abstract float32 weights of an adapter, with shardings."""
    abstract = lora.abstract_weights(config, model)
    shardings = sharding.tree_shardings(mesh, lora.logical_axes(abstract), abstract)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract, shardings
    )


def load_base(stack: Stack, model: ModelConfig, mesh: Mesh, checkpoint: Path) -> transformer.Params:
    """Loads the base's parameters onto `mesh`, in the dtype that the stack says, without any adapter.

    Raises:
        InputError: the base cannot be loaded, or it is not the base that the adapter in `checkpoint` was trained on.
    """
    params = store.load(stack.base.path, {"params": frozen_target(model, mesh, stack.base.dtype)})["params"]
    if stack.base.digests:
        check_digests(digest(params), stack, checkpoint)
    return params


def check_digests(found: Mapping[str, str], stack: Stack, checkpoint: Path) -> None:
    """Refuses a base whose weights are not those that the adapter in `checkpoint` was trained on.

    Raises:
        InputError: a tensor differs; the message names the first.
    """
    for name in sorted(found):
        if found[name] != stack.base.digests.get(name):
            raise InputError(
                f"{checkpoint}: its adapter was not trained on the base {stack.base.path}: tensor {name} differs; "
                "choose the right base with --checkpoint=BASE and --adapter, or with init.base"
            )


def load_weights(checkpoint: Path, stack: Stack, model: ModelConfig, mesh: Mesh) -> tuple[lora.Weights, ...]:
    """Loads the float32 weights of all adapters of a checkpoint, bottom first.

    Raises:
        InputError: an array is missing or has another shape.
    """
    *below, top = (weights_target(adapter.config, model, mesh) for adapter in stack.adapters)
    loaded = store.load(checkpoint, tree(top, below), advice="use the base it was trained on")
    return (*(loaded["below"][str(i)] for i in range(len(stack.below))), loaded["adapter"])


def tree(top: lora.Weights, below: Sequence[lora.Weights]) -> dict[str, lora.Weights]:
    """Returns the entries of a checkpoint that hold adapters."""
    frozen = {"below": {str(i): each for i, each in enumerate(below)}} if below else {}
    return {"adapter": top, **frozen}


def merge_below(params: transformer.Params, stack: Stack, weights: Sequence[lora.Weights]) -> transformer.Params:
    """Merges the adapters that the stack says are merged into `params` (donated); `weights` may lack the last one."""
    for stacked, each in zip(stack.adapters, weights, strict=False):
        if stacked.merged:
            params = _merged(params, Adapter(each, stacked.config))
    return params


def merge_all(params: transformer.Params, stack: Stack, weights: Sequence[lora.Weights]) -> transformer.Params:
    """Merges all adapters into the base `params` (donated); returns the float32 parameters of the whole model."""
    params = merge_below(params, stack, weights)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    for adapter in beside(stack, weights):
        params = _merged(params, adapter)
    return params


def beside(stack: Stack, weights: Sequence[lora.Weights]) -> tuple[Adapter, ...]:
    """Returns the adapters that are applied beside the base; `weights` may lack the last one."""
    pairs = zip(stack.adapters, weights, strict=False)
    return tuple(Adapter(each, stacked.config) for stacked, each in pairs if not stacked.merged)


def _merged(params: transformer.Params, adapter: Adapter) -> transformer.Params:
    where = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.jit(lora.merge, donate_argnums=0, out_shardings=where)(params, adapter)
