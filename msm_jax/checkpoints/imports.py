"""Writes a source of weights (a Hugging Face directory, a GGUF file) as a run directory with one checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msm_jax.checkpoints import assets, manifest, slices
from msm_jax.checkpoints.huggingface import Source
from msm_jax.checkpoints.manifest import Manifest
from msm_jax.checkpoints.slices import Index, Leaf
from msm_jax.foundation import hashing, storage
from msm_jax.models import families
from msm_jax.models.config import ModelConfig
from msm_jax.models.families import Weight

PHASE = "import"
# The number of pieces along the axis that meshes split most, so that a host reads little more than its own part.
_PARTS = 16


def write(
    source: Source,
    run_dir: Path,
    dtype: np.dtype | None = None,
    parent: Path | None = None,
    chat_variables: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the whole run directory or nothing; keeps only a few slices of the weights in memory.

    Args:
        source: the source of the weights.
        run_dir: must not exist, or must be empty.
        dtype: the dtype of the weights in the checkpoint; None for the source's own.
        parent: the checkpoint that the weights come from, if they come from one of ours.
        chat_variables: variables that the chat template gets besides the messages.

    Returns:
        The checkpoint's directory.

    Raises:
        InputError: `run_dir` is not empty, the tokenizer does not fit the model, or the chat template fails.
        WorkError: the run directory cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(run_dir)
    assets.check_vocabulary(source.assets, source.model, source.where)
    if parent is None:
        # Our own checkpoints have been trained or sampled with their template.
        assets.check_template(source.assets, {}, source.where)
    leaves = {weight.path: _leaf(weight, dtype or source.dtype(weight)) for weight in families.weights(source.model)}
    info = info_of(source.model, source.assets, chat_variables or {})
    with storage.new_directory(run_dir) as temporary:
        checkpoint = temporary / "checkpoints" / "0"
        slices.write(checkpoint, list(leaves.values()), _blocks(source, leaves), info, source.assets)
        manifest.write(temporary, lineage(info, source.files, parent))
    return run_dir / "checkpoints" / "0"


def info_of(model: ModelConfig, files: Mapping[str, bytes], chat_variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the info of a checkpoint that no phase wrote, whose assets are `files`."""
    sha256, template_sha256 = assets.digests(files)
    return {
        "phase": PHASE,
        "step": 0,
        "first_step": 0,
        "seed": 0,
        "model": dataclasses.asdict(model),
        "data_fingerprint": "",
        "tokenizer_sha256": sha256,
        "template_sha256": template_sha256,
        "chat_variables": dict(chat_variables),
        "totals": {},
    }


def lineage(info: Mapping[str, Any], files: Sequence[Path], parent: Path | None) -> Manifest:
    """Returns the manifest of a run directory that no phase wrote, made from `files` and possibly from a checkpoint."""
    return Manifest(
        phase=info["phase"],
        parent=None if parent is None else manifest.parent_of(parent),
        data={str(file): hashing.file_sha256(file) for file in files},
        data_fingerprint=info["data_fingerprint"],
        tokenizer_sha256=info["tokenizer_sha256"],
        template_sha256=info["template_sha256"],
        versions=manifest.versions(),
        mesh={},
        seed=info["seed"],
        device_kind="",
        threads=0,
    )


def _leaf(weight: Weight, dtype: np.dtype) -> Leaf:
    piece = weight.shape
    axes = weight.parameter.axes
    if "vocab" in axes:
        # An embedding is read in blocks of the vocabulary.
        at = axes.index("vocab")
        width = dtype.itemsize * np.prod(piece) // piece[at]
        piece = tuple(min(n, max(1, slices.SLICE_BYTES // int(width))) if i == at else n for i, n in enumerate(piece))
    if "embed" in axes:
        piece = slices.pieces(piece, dtype, axes.index("embed"), _PARTS)
    return Leaf(weight.path, weight.full_shape, dtype, (1, *piece) if weight.layers else piece)


def _blocks(source: Source, leaves: Mapping[tuple[str, ...], Leaf]) -> Iterator[tuple[Leaf, Index, np.ndarray]]:
    for weight in families.weights(source.model):
        leaf = leaves[weight.path]
        piece = leaf.piece[1:] if weight.layers else leaf.piece
        for layer in range(max(weight.layers, 1)):
            for index in _grid(weight.shape, piece, leaf.dtype):
                block = source.read(weight, layer, index).astype(leaf.dtype)
                yield leaf, (slice(layer, layer + 1), *index) if weight.layers else index, (
                    block[None] if weight.layers else block
                )


def _grid(shape: tuple[int, ...], piece: tuple[int, ...], dtype: np.dtype) -> Iterator[Index]:
    """Yields blocks that cover `shape`: as many whole pieces along one axis as fit into a slice."""
    size = int(np.prod(piece)) * dtype.itemsize
    counts = [-(-n // p) for n, p in zip(shape, piece, strict=True)]
    # An embedding is stored in pieces along both axes. A block joins pieces along the shorter axis.
    joined = min((i for i, count in enumerate(counts) if count > 1), key=lambda i: shape[i], default=0)
    together = max(1, slices.SLICE_BYTES // size)
    steps = [p * (together if i == joined else 1) for i, p in enumerate(piece)]
    starts = np.ndindex(*(-(-n // step) for n, step in zip(shape, steps, strict=True)))
    for at in starts:
        yield tuple(
            slice(i * step, min((i + 1) * step, n)) for i, step, n in zip(at, steps, shape, strict=True)
        )
