"""The model card of an exported checkpoint, with the lineage that its manifests record."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import msm_jax
from msm_jax.checkpoints import manifest
from msm_jax.checkpoints.manifest import Manifest
from msm_jax.errors import InputError
from msm_jax.foundation import hashing
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig


def of_model(name: str, checkpoint: Path, model: ModelConfig, dtype: np.dtype) -> str:
    """Returns the README.md of a model's directory, in Markdown with the front matter that model hubs read.

    Args:
        name: the heading.
        checkpoint: RUN/checkpoints/STEP; the manifests of its run and of the runs before it are read.
        model: the model's shape.
        dtype: the dtype of the exported weights.
    """
    about = (
        f"{transformer.count_params(model):,} parameters in {dtype.name}: {model.num_layers} layers, hidden size "
        f"{model.hidden_size}, {model.num_heads} heads on {model.num_kv_heads} key-value heads, vocabulary "
        f"{model.vocab_size:,}."
    )
    return _render(name, "transformers", about, checkpoint)


def of_adapter(name: str, checkpoint: Path, config: LoraConfig, base: str) -> str:
    """Returns the README.md of an adapter's directory.

    Args:
        name: the heading.
        checkpoint: as for `of_model`.
        config: the settings of the exported adapter.
        base: the name of the adapter's base model.
    """
    about = (
        f"A LoRA adapter for `{base}`, in float32: rank {config.rank}, alpha {config.alpha:g}, on "
        f"{', '.join(config.targets)}."
    )
    return _render(name, "peft", about, checkpoint)


def _render(name: str, library: str, about: str, checkpoint: Path) -> str:
    lines = [
        "---",
        f"library_name: {library}",
        "tags:",
        "- msm-jax",
        "---",
        f"# {name}",
        "",
        about,
        "",
        f"Exported by msm_jax {msm_jax.__version__} from step {checkpoint.name} of phase "
        f"`{_phase(checkpoint)}`. The chat template and the tokens that end a turn are those of training.",
        "",
        "## Lineage",
        "",
        "Newest first. Each file has its name without its directory, and the first half of its SHA-256.",
    ]
    lineage = _lineage(checkpoint)
    for digest, entry in lineage:
        lines += ["", f"### {entry.phase}", "", *_describe(digest, entry)]
    if not lineage:
        lines += ["", "The run of this checkpoint has no manifest."]
    return "\n".join(lines) + "\n"


def _phase(checkpoint: Path) -> str:
    lineage = _lineage(checkpoint)
    return lineage[0][1].phase if lineage else "unknown"


def _lineage(checkpoint: Path) -> list[tuple[str, Manifest]]:
    """Returns (SHA-256, manifest) of the checkpoint's run and of the runs before it, as far as they can be found."""
    found: list[tuple[str, Manifest]] = []
    run: Path | None = checkpoint.absolute().parent.parent
    while run is not None and (run / "manifest.json").is_file() and len(found) < 100:
        try:
            entry = manifest.read(run)
        except InputError:
            break
        found.append((hashing.file_sha256(run / "manifest.json"), entry))
        run = Path(entry.parent.run) if entry.parent else None
    return found


def _describe(digest: str, entry: Manifest) -> list[str]:
    lines = [f"- manifest {digest[:32]}, seed {entry.seed}"]
    if entry.parent:
        lines.append(f"- started from a checkpoint whose manifest is {entry.parent.manifest_sha256[:32] or 'missing'}")
    lines += [f"- {Path(path).name}: {sha256[:32]}" for path, sha256 in entry.data.items()]
    hashes = {"tokenizer": entry.tokenizer_sha256, "chat template": entry.template_sha256}
    lines += [f"- {what}: {sha256[:32]}" for what, sha256 in hashes.items() if sha256]
    lines.append(f"- {', '.join(f'{name} {version}' for name, version in entry.versions.items())}")
    return lines
