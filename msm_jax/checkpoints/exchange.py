"""Adapters between checkpoints of ours and PEFT's directories, and base and adapters made into one checkpoint."""

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
    """Makes a run directory with one checkpoint of an adapter of PEFT's on a base of ours; returns the checkpoint.

    Tokenizer and chat template beside the adapter go before the base's, since it was trained with them.

    Raises:
        InputError: the adapter cannot be read or is for a model of another shape, its chat template fails, there is no
            base, or something is at `run_dir`.
        WorkError: it cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(run_dir)
    directory = Path(directory)
    if not peft.is_directory(directory):
        raise InputError(f"{directory}: holds no {peft.CONFIG_FILE}; name a directory of PEFT's")
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
    """Writes the adapters of a checkpoint as one directory of PEFT's, with tokenizer, chat template and a model card.

    Several adapters on one base become one whose rank is the sum of theirs; that counts those merged into the base
    too, since the directory is for the base as it was.

    Raises:
        InputError: the checkpoint holds no adapter, or something is at `directory`.
        WorkError: it cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(directory)
    path = store.resolve(checkpoint)
    info, files = store.read_info(path), store.read_assets(path)
    stack = adapters.read(info, path)
    if stack is None:
        raise InputError(f"{path}: holds no adapter; --to_hf exports a model's own weights")
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
    """Makes a run directory with one checkpoint of the model that base and adapters are together; returns it.

    Goes block by block, so that it needs little memory.

    Args:
        checkpoint: with an adapter.
        run_dir: does not exist, or is empty.
        dtype: of the weights written; the base's own where None.

    Raises:
        InputError: the checkpoint holds no adapter, its base is not there or another one, or something is at `run_dir`.
        WorkError: it cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(run_dir)
    source = _Merged(checkpoint)
    return imports.write(source, run_dir, dtype, source.where, source.info.get("chat_variables", {}))


class _Merged:
    """`imports.Source` of a base with its adapters added."""

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
        """The base's own."""
        return self._reader.leaves[weight.path][1]

    def read(self, weight: Weight, layer: int, index: tuple[slice, ...]) -> np.ndarray:
        """A block of the base's parameter, rounded as it was in training, with what the adapters add in float32."""
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
                    # What was merged before training was rounded before it.
                    block = block.astype(self._dtype).astype(np.float32) if merged else block
        return block


def _delta(
    config: lora.LoraConfig, pair: Mapping[str, np.ndarray], weight: Weight, layer: int, index: tuple[slice, ...]
) -> np.ndarray:
    outputs, inputs = weight.rectangle(index)
    product = pair["a"][layer][inputs] @ pair["b"][layer][:, outputs]
    return (config.scale * product).reshape([part.stop - part.start for part in index])
