"""The small files of a run: config.json and manifest.json at its start, result.json at its end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from msm_jax.checkpoints import manifest
from msm_jax.errors import InputError
from msm_jax.foundation import hashing, mirror, settings, storage
from msm_jax.training.config import PhaseConfig
from msm_jax.training.origin import Origin

_CONFIG = "config.json"
_RESULT = "result.json"

# What may change when a run is continued: how it is distributed and how often it reports. Data, tokenizer and template
# are checked by content, not by path.
_MAY_CHANGE = (
    "mesh",
    "micro_batches",
    "threads",
    "log_every",
    "eval_every",
    "eval_batches",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_every",
    "keep_checkpoints",
    "keep_steps",
    "stall_seconds",
    "trace_steps",
    "data.cache_dir",
    "data.epochs",
    "init.base",
    "tokenizer",
    "chat_template",
)


@dataclass(frozen=True)
class PhaseResult:
    """The result of a phase, over all its parts if it was interrupted.

    Attributes:
        checkpoint: the last checkpoint.
        steps: the optimizer steps of this phase.
        tokens: the tokens that were read, without padding.
        flops: model FLOPs; see `training.metrics`.
        wall_seconds: the time with set-up and compilation.
        device_seconds: the time of the steps alone, times the number of devices.
    """

    checkpoint: Path
    steps: int
    tokens: int
    flops: float
    wall_seconds: float
    device_seconds: float


def begin(config: PhaseConfig, workdir: Path, record: manifest.Manifest, start: Origin) -> None:
    """Writes config.json and manifest.json; if the run is continued, adds to the manifest what changed."""
    fields = dataclasses.asdict(config) | {"keep_steps": kept_steps(config, workdir)}
    storage.write_json(workdir / _CONFIG, mirror.named_in(fields))
    if start.kind == "resume":
        manifest.record_continuation(workdir, start.start_step, record)
    else:
        (workdir / _RESULT).unlink(missing_ok=True)
        manifest.write(workdir, record)


def kept_steps(config: PhaseConfig, workdir: Path) -> list[int]:
    """Returns the steps whose checkpoints stay: those of the config, and those of earlier calls."""
    stored = storage.find_json(workdir / _CONFIG) or {}
    regular = range(config.keep_every, config.steps, config.keep_every) if config.keep_every else ()
    return sorted({*config.keep_steps, *regular, *stored.get("keep_steps", ())})


def record_kept_steps(config: PhaseConfig, workdir: Path) -> None:
    """Adds the `keep_steps` of the config to those in the config.json of a run that was begun before."""
    stored, kept = storage.read_json(workdir / _CONFIG), kept_steps(config, workdir)
    if kept != stored.get("keep_steps", []):
        storage.write_json(workdir / _CONFIG, stored | {"keep_steps": kept})


def check_same_run(config: PhaseConfig, workdir: Path) -> None:
    """Refuses to continue a run under another config.

    Raises:
        InputError: a field that decides the result differs from config.json.
    """
    stored = storage.read_json(workdir / _CONFIG)
    if (stored.get("lora") is None) != (config.lora is None):
        kind = "an adapter" if config.lora is None else "all weights"
        raise InputError(f"the run in {workdir} trains {kind}, but config.lora = {config.lora}; use another workdir")
    for name, then, now in hashing.changes(stored, mirror.named_in(settings.to_json(config))):
        free = any(name == field or name.startswith(f"{field}.") for field in _MAY_CHANGE)
        is_path = name.startswith("data.sources.") and name.endswith(".path")
        # A field that one side lacks is of another version of this package.
        if None not in (then, now) and not free and not is_path:
            raise InputError(
                f"config.{name} is {now!r}, but {then!r} in the run in {workdir}; use another workdir"
            )


def write_result(workdir: Path, result: PhaseResult) -> None:
    """Writes result.json, which marks the run as finished."""
    # The checkpoint is named by its step, so that the run can be moved.
    fields = dataclasses.asdict(result) | {"checkpoint": result.checkpoint.name}
    storage.write_json(workdir / _RESULT, fields)


def read_result(workdir: Path) -> PhaseResult | None:
    """Returns the result of a finished run, None for another."""
    path = workdir / _RESULT
    if not path.exists():
        return None
    fields = storage.read_json(path)
    return PhaseResult(**{**fields, "checkpoint": workdir / "checkpoints" / fields["checkpoint"]})
