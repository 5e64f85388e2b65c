"""Imports and exports LoRA adapters as PEFT directories, and merges adapters into their base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.checkpoints import adapters, assets, card, compose, digest, imports, manifest, peft, slices, store
from msm_jax.checkpoints.adapters import Base, Stack, StackedAdapter
from msm_jax.data import templates, tokenizers
from msm_jax.errors import InputError
from msm_jax.foundation import storage
from msm_jax.models import lora
from msm_jax.models.families import Weight
from msm_jax.parallel.mesh import MeshConfig, make_mesh


def import_peft(directory: Path | str, base: Path | str, run_dir: Path) -> Path:
    """Imports an adapter from a PEFT directory: makes a run directory with one checkpoint of it.

    A tokenizer or chat template in `directory` replaces that of the base, since the adapter was trained with it.

    Args:
        directory: the PEFT directory.
        base: the checkpoint or run directory of the adapter's base model.
        run_dir: does not exist, or is empty.

    Returns:
        The checkpoint's directory.

    Raises:
        InputError: the adapter cannot be read or is for a model of another shape, its chat template fails, the base
            does not exist, or `run_dir` is occupied.
        WorkError: the run directory cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(run_dir)
    directory = Path(directory)
    if not peft.is_directory(directory):
        raise InputError(f"{directory}: holds no {peft.CONFIG_FILE}; give the directory of a PEFT adapter")
    found = compose.find(base, directory)
    assert found.stack is not None
    assert found.foreign is not None
    variables = found.info.get("chat_variables", {})
    assets.check_template(found.assets, variables, directory)
    path = found.stack.base.path
    known = Base(path, digest.of_checkpoint(path), found.stack.base.dtype)
    tree = {"adapter": jax.tree.map(jnp.asarray, found.foreign), "step": jnp.int32(0)}
    with storage.new_directory(run_dir) as temporary:
        final = run_dir / "checkpoints" / "0"
        info = imports.info_of(found.model, found.assets, variables)
        info |= adapters.to_info(Stack(known, found.stack.adapters), final)
        store.save(temporary / "checkpoints" / "0", tree, info, found.assets)
        files = [directory / peft.CONFIG_FILE, directory / peft.WEIGHTS_FILE]
        manifest.write(temporary, imports.lineage(info, files, path))
    return final


def export_peft(checkpoint: Path | str, directory: Path) -> None:
    """Writes the adapters of a checkpoint as one PEFT directory, with tokenizer, chat template and a model card.

    Several adapters on one base become one, whose rank is the sum of theirs. This includes adapters that training
    merged into the base, since the exported adapter is for the original base.

    Raises:
        InputError: the checkpoint holds no adapter, or `directory` is occupied.
        WorkError: the directory cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(directory)
    path = store.resolve(checkpoint)
    info, files = store.read_info(path), store.read_assets(path)
    stack = adapters.read(info, path)
    if stack is None:
        raise InputError(f"{path}: holds no adapter; export all weights with --to_hf")
    model = compose.model_config(info, path)
    weights = adapters.load_weights(path, stack, model, make_mesh(MeshConfig(), jax.local_devices()))
    config, joined = peft.joined([adapter.config for adapter in stack.adapters], jax.device_get(weights))
    name = ""
    if assets.CONFIG in files:
        name = assets.parse(files, assets.CONFIG, path).get("_name_or_path", "")
    beside = templates.for_transformers(files)
    kept = {n: data for n, data in beside.items() if n in (*tokenizers.FILES, templates.TEMPLATE_FILE)}
    name = name or stack.base.path.parent.parent.name
    kept["README.md"] = card.of_adapter(directory.name, path, config, name).encode()
    with storage.new_directory(directory) as temporary:
        peft.write(temporary, config, joined, name, kept)


def merge(checkpoint: Path | str, run_dir: Path, dtype: np.dtype | None = None) -> Path:
    """Merges a base and its adapters: makes a run directory with one checkpoint of all weights.

    It works block by block, so that it needs little memory.

    Args:
        checkpoint: a checkpoint with an adapter.
        run_dir: does not exist, or is empty.
        dtype: the dtype of the weights written; that of the base if None.

    Returns:
        The checkpoint's directory.

    Raises:
        InputError: the checkpoint holds no adapter, its base is missing or has changed, or `run_dir` is occupied.
        WorkError: the run directory cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(run_dir)
    source = _Merged(checkpoint)
    return imports.write(source, run_dir, dtype, source.where, source.info.get("chat_variables", {}))


class _Merged:
    """The `imports.Source` of a base with its adapters added."""

    def __init__(self, checkpoint: Path | str) -> None:
        found = compose.find(checkpoint)
        if found.stack is None:
            raise InputError(f"{found.checkpoint}: holds no adapter, so there is nothing to merge")
        self.where = found.checkpoint
        self.model = found.model
        self.files: Sequence[Path] = ()
        self.assets = found.assets
        self.info = found.info
        mesh = make_mesh(MeshConfig(), jax.local_devices())
        loaded = jax.device_get(adapters.load_weights(found.checkpoint, found.stack, found.model, mesh))
        adapters.check_digests(digest.of_checkpoint(found.stack.base.path), found.stack, found.checkpoint)
        self._adapters: list[tuple[StackedAdapter, lora.Weights]] = list(zip(found.stack.adapters, loaded, strict=True))
        self._dtype = jnp.dtype(found.stack.base.dtype)
        self._reader = slices.Reader(found.stack.base.path)

    def dtype(self, weight: Weight) -> np.dtype:
        """Returns the dtype of the base."""
        return self._reader.leaves[weight.path][1]

    def read(self, weight: Weight, layer: int, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a block of the base's parameter, rounded as in training, plus the adapters' updates, in float32."""
        block = self._reader.read(weight.path, (slice(layer, layer + 1), *index) if weight.layers else index)
        block = block[0] if weight.layers else block
        name = weight.path[-1]
        if name != "final_norm":
            block = block.astype(self._dtype)
        block = block.astype(np.float32)
        for merged in (True, False):
            for settings, weights in self._adapters:
                if settings.merged == merged and name in weights["layers"]:
                    block = block + _delta(settings.config, weights["layers"][name], weight, layer, index)
                    # Training rounded the weights after it merged such an adapter.
                    block = block.astype(self._dtype).astype(np.float32) if merged else block
        return block


def _delta(
    config: lora.LoraConfig, pair: Mapping[str, np.ndarray], weight: Weight, layer: int, index: tuple[slice, ...]
) -> np.ndarray:
    outputs, inputs = weight.rectangle(index)
    product = pair["a"][layer][inputs] @ pair["b"][layer][:, outputs]
    return (config.scale * product).reshape([part.stop - part.start for part in index])
