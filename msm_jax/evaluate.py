"""Runs the evals of a config on one checkpoint.

    python -m msm_jax.evaluate --config=configs/evals/preferences.py --checkpoint=RUN --workdir=DIR

Writes DIR/results/EVAL.json (mean, 95 % interval over items, every item's score) and DIR/samples/EVAL.jsonl (what was
asked and answered). Running it again reuses a result unless the eval's settings, its item file or the checkpoint
have changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.table import Table

from msm_jax import cli
from msm_jax.analysis import terminal
from msm_jax.analysis.statistics import interval95
from msm_jax.checkpoints import compose, store
from msm_jax.data import sources
from msm_jax.errors import WorkError
from msm_jax.evals import kinds
from msm_jax.evals.config import EvaluateConfig
from msm_jax.evals.interface import EvalConfig, EvalResult
from msm_jax.foundation import settings
from msm_jax.sampling.checkpoint_model import CheckpointModel
from msm_jax.sampling.engine import Sampler

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A checkpoint, or a run directory for its newest one.")
_ADAPTER = flags.DEFINE_string("adapter", "", "An adapter on that checkpoint: a run of ours or a PEFT directory.")

_log = logging.getLogger(__name__)


def main() -> None:
    """Refuses what is wrong before the model is loaded, then runs the evals that have no result yet."""
    config = settings.build(EvaluateConfig, cli.require(_CONFIG))
    evals = {name: kinds.build(fields, f"config.evals.{name}") for name, fields in config.evals.items()}
    workdir = Path(cli.require(_WORKDIR))
    checkpoint = store.resolve(cli.require(_CHECKPOINT))
    for each in evals.values():
        kinds.check(each)
    origin = checkpoint_digest(checkpoint)
    if _ADAPTER.value:
        origin += checkpoint_digest(compose.directory_of(_ADAPTER.value))
    addresses = {name: address(each, origin, config.chat_variables) for name, each in evals.items()}
    stored = {name: reusable(workdir, name, addresses[name]) for name in evals}
    if not all(stored.values()):
        cli.prepare_backend(devices=1, threads=config.threads)
        sampler = Sampler.from_checkpoint(
            checkpoint, batch=config.batch, adapter=_ADAPTER.value, chat_variables=config.chat_variables
        )
        models = {"model": CheckpointModel(sampler, str(checkpoint))}
        for each in evals.values():
            kinds.check_models(models, each)
    rows = []
    for name, each in evals.items():
        found = stored[name]
        if found is None:
            _log.info("eval %s: %s", name, each.path)
            found = write(workdir, name, addresses[name], kinds.run(models, each))
        rows.append((name, found, stored[name] is not None))
    terminal.console().print(table(" with ".join(filter(None, [f"{checkpoint}", _ADAPTER.value])), rows))


def address(config: EvalConfig, origin: str, chat_variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on, as JSON; one that was made for an equal address is reused."""
    told = {"chat_variables": settings.to_json(chat_variables)} if chat_variables else {}
    return {
        **told,
        "config": settings.to_json(config),
        "items_sha256": sources.data_sha256(config.path),
        "checkpoint": origin,
        "versions": {"jax": jax.__version__},
    }


def checkpoint_digest(checkpoint: Path) -> str:
    """sha256 over the names, sizes and times of a checkpoint's files, which are written once.

    Reading the weights of a large model twice would take longer than many evals.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    stats = [(path.relative_to(checkpoint).as_posix(), path.stat()) for path in files]
    listed = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def reusable(workdir: Path, name: str, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The stored result of the eval `name`, None where there is none or it was made for another address."""
    try:
        found = json.loads((workdir / "results" / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("address") == wanted else None


def write(workdir: Path, name: str, where: dict[str, Any], result: EvalResult) -> dict[str, Any]:
    """Writes samples, then the result, each under a temporary name first; returns what is stored.

    Raises:
        WorkError: the files cannot be written.
    """
    fields = result.to_json()
    transcripts = fields.pop("transcripts")
    stored = {"address": where, "ci95": interval(result), **fields}
    rows = transcripts or result.items
    samples = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        _replace(workdir / "samples" / f"{name}.jsonl", samples)
        _replace(workdir / "results" / f"{name}.json", json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise WorkError(f"writing the result of {name} to {workdir} failed: {error.strerror}") from error
    return stored


def interval(result: EvalResult) -> list[float] | None:
    """The 95 % bootstrap interval of the mean over items; None without a score."""
    if result.mean is None:
        return None
    scores = np.array([[np.nan if item["score"] is None else item["score"] for item in result.items]])
    found = interval95(scores)
    return [found.low, found.high]


def table(title: str, rows: list[tuple[str, dict[str, Any], bool]]) -> Table:
    """Name, mean, interval, items and parse rate of each eval."""
    shown = Table("eval", "mean", "95 % interval", "items", "parsed", "", title=title, title_justify="left")
    for name, found, reused in rows:
        mean = "none parsed" if found["mean"] is None else f"{found['mean']:.3f}"
        ends = "" if found["ci95"] is None else "{:.3f} to {:.3f}".format(*found["ci95"])
        parsed = "" if found["parse_rate"] is None else f"{found['parse_rate']:.1%}"
        shown.add_row(name, mean, ends, str(found["n_items"]), parsed, "reused" if reused else "")
    return shown


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main)
