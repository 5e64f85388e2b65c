"""From a source of weights (a Hugging Face directory, a GGUF file) to a run directory of ours with one checkpoint."""

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
# The axis that a mesh shards most ways is stored in so many parts, so that a host reads little more than its own.
_PARTS = 16


def write(
    source: Source,
    run_dir: Path,
    dtype: np.dtype | None = None,
    parent: Path | None = None,
    chat_variables: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the run directory whole or not at all, and never holds more than a few slices of the weights.

    Args:
        source: of the weights.
        run_dir: does not exist, or is an empty directory.
        dtype: of the weights in the checkpoint; the source's own where None.
        parent: the checkpoint of ours that the weights come from, if they do.
        chat_variables: what the chat template is told besides the messages.

    Returns:
        The checkpoint's directory.

    Raises:
        InputError: something is at `run_dir`, the tokenizer is none of this model's, or the chat template fails.
        WorkError: it cannot be written (disk full, no permission).
    """
    storage.refuse_occupied(run_dir)
    assets.check_vocabulary(source.assets, source.model, source.where)
    if parent is None:
        # One of ours has trained or sampled with its template.
        assets.check_template(source.assets, {}, source.where)
    leaves = {weight.path: _leaf(weight, dtype or source.dtype(weight)) for weight in families.weights(source.model)}
    info = info_of(source.model, source.assets, chat_variables or {})
    with storage.new_directory(run_dir) as temporary:
        checkpoint = temporary / "checkpoints" / "0"
        slices.write(checkpoint, list(leaves.values()), _blocks(source, leaves), info, source.assets)
        manifest.write(temporary, lineage(info, source.files, parent))
    return run_dir / "checkpoints" / "0"


def info_of(model: ModelConfig, files: Mapping[str, bytes], chat_variables: Mapping[str, Any]) -> dict[str, Any]:
    """The info of a checkpoint that no phase has made, with `files` as its assets."""
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
    """The manifest of a run directory that no phase has made, from these files and perhaps a checkpoint of ours."""
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
        # Blocks of the vocabulary are what a slice of an embedding is.
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
    """Blocks that cover `shape`: whole pieces, as many along one axis as make a slice."""
    size = int(np.prod(piece)) * dtype.itemsize
    counts = [-(-n // p) for n, p in zip(shape, piece, strict=True)]
    # An embedding is stored in pieces along both axes: blocks join them along the shorter one.
    joined = min((i for i, count in enumerate(counts) if count > 1), key=lambda i: shape[i], default=0)
    together = max(1, slices.SLICE_BYTES // size)
    steps = [p * (together if i == joined else 1) for i, p in enumerate(piece)]
    starts = np.ndindex(*(-(-n // step) for n, step in zip(shape, steps, strict=True)))
    for at in starts:
        yield tuple(
            slice(i * step, min((i + 1) * step, n)) for i, step, n in zip(at, steps, shape, strict=True)
        )
