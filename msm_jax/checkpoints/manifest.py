"""The manifest of a run, `RUN/manifest.json`: everything that decides its result.

A manifest names the one of the run before it by its SHA-256, so that manifests form a lineage.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msm_jax
from msm_jax.errors import InputError
from msm_jax.foundation import hashing, mirror, storage

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "tokenizers", "numpy")


@dataclass(frozen=True)
class Parent:
    """The checkpoint from which a run started. `manifest_sha256` is of that run's manifest, "" if it has none."""

    run: str
    checkpoint: str
    manifest_sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that decides the bits of a run's result.

    Attributes:
        phase: the name of the phase.
        parent: where the run started; None for a run from scratch.
        data: the SHA-256 of each data file.
        data_fingerprint: `Loader.fingerprint`.
        tokenizer_sha256: of the tokenizer.
        template_sha256: of the chat template, "" if there is none.
        versions: of the libraries, by name.
        mesh: the number of devices along each axis.
        seed: of the phase.
        device_kind: the name that JAX gives to the devices.
        threads: the number of threads that computed.
        continued: for each continuation on another mesh, device kind, thread count or version, the step and the new
            values.
        replaced_template_sha256: of the parent's chat template if the run replaced it, else "".
        epochs: how often the phase reads each source; empty in manifests of older versions.
        left_out: the numbers of malformed lines and of chats longer than a row that were left out, by source.
    """

    phase: str
    parent: Parent | None
    data: Mapping[str, str]
    data_fingerprint: str
    tokenizer_sha256: str
    template_sha256: str
    versions: Mapping[str, str]
    mesh: Mapping[str, int]
    seed: int
    device_kind: str
    threads: int
    continued: Sequence[Mapping[str, Any]] = ()
    replaced_template_sha256: str = ""
    epochs: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def write(run_dir: Path, manifest: Manifest) -> None:
    """Writes `run_dir/manifest.json` whole or not at all.

    Raises:
        WorkError: the file cannot be written.
    """
    storage.write_json(Path(run_dir) / "manifest.json", asdict(manifest))


def read(run_dir: Path) -> Manifest:
    """Reads `run_dir/manifest.json`.

    Raises:
        InputError: the file is missing or is not a manifest of this version.
    """
    path = Path(run_dir) / "manifest.json"
    value = storage.read_json(path)
    try:
        parent = Parent(**value["parent"]) if value["parent"] else None
        return Manifest(**{**value, "parent": parent})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest of this version ({error})") from error


def record_continuation(run_dir: Path, step: int, now: Manifest) -> None:
    """Adds an entry to the manifest if a run continues at `step` on other devices or versions."""
    began = read(run_dir)
    last = asdict(began)
    for entry in began.continued:
        last |= entry
    new = {
        name: value
        for name, value in asdict(now).items()
        if name in ("mesh", "device_kind", "threads", "versions") and value != last[name]
    }
    if new:
        write(run_dir, replace(began, continued=[*began.continued, {"step": step, **new}]))


def parent_of(checkpoint: Path) -> Parent:
    """Returns the parent of a run that starts from the checkpoint RUN/checkpoints/STEP."""
    run = checkpoint.parent.parent
    recorded = run / "manifest.json"
    sha256 = hashing.file_sha256(recorded) if recorded.exists() else ""
    return Parent(mirror.named(run), mirror.named(checkpoint), sha256)


def versions() -> dict[str, str]:
    """Returns the versions of Python, this package and the libraries that decide the bits of a run."""
    found = {"python": platform.python_version(), "msm_jax": msm_jax.__version__}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}
