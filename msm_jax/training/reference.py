"""Log-probabilities of a phase's data under the weights that the phase starts from.

They are computed once, before the first step, for every row of every source and every held-out row. They are cached by
content, in directories named by the hash of the data (`Loader.fingerprint`), of the weights (`checkpoints.digest`), and
of the model's shape and execution. The phase's checkpoints record that hash, so that a run that continues needs neither
its parent nor a second computation, and reads the same bits.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from msm_jax.checkpoints.digest import digest
from msm_jax.data.loader import Batch, Loader
from msm_jax.errors import InputError
from msm_jax.foundation import hashing, storage
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter
from msm_jax.parallel import distributed, sharding
from msm_jax.training import objective, origin, placement, state
from msm_jax.training.config import PhaseConfig
from msm_jax.training.objective import REFERENCE
from msm_jax.training.origin import Origin
from msm_jax.training.state import Frozen

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of all rows, 0 where there is no loss.

    Attributes:
        key: the hash of everything that decides them.
        rows: float32 [rows, seq_len] of each source, in the order of `Loader.epoch_batches`.
        held_out: likewise of the sources that hold documents out, in the order of `Loader.holdout_batches`.
    """

    key: str
    rows: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]

    def of_step(self, loader: Loader, step: int, host: int, num_hosts: int) -> dict[str, np.ndarray]:
        """Returns the field `REFERENCE` of the rows of `Loader.host_batch`."""
        sources, rows = loader.rows_of(step, host, num_hosts)
        names = [loader.source_names[number] for number in sources]
        return {REFERENCE: np.stack([self.rows[name][row] for name, row in zip(names, rows, strict=True)])}

    def of_held_out(self, source: str, number: int, batch_rows: int) -> dict[str, np.ndarray]:
        """Returns the field `REFERENCE` of batch `number` of the held-out batches of a source."""
        return {REFERENCE: self.held_out[source][number * batch_rows : (number + 1) * batch_rows]}


def prepare(
    config: PhaseConfig, start: Origin, loader: Loader, optimizer: optax.GradientTransformation, mesh: Mesh,
    workdir: Path,
) -> Reference:
    """Returns the log-probabilities from the cache, or computes them, for which it loads the weights.

    Args:
        config: the phase.
        start: where it starts, or from which checkpoint of its own it continues.
        loader: its data.
        optimizer: its optimizer.
        mesh: its mesh, which is set.
        workdir: the directory of its run.

    Raises:
        InputError: the run continues without its cache, and what it began from is gone or has changed.
    """
    cache = Path(config.data.cache_dir or workdir / "cache")
    known = str(start.info.get("reference", "")) if start.kind == "resume" else ""
    if known and not _is_missing(cache, known):
        return _read(cache, known, config, loader)
    first = origin.find(config, workdir, 0) if start.kind == "resume" else start
    weights = _weights(first, optimizer, mesh, config.seed)
    key = _key(weights, first.model, loader)
    if known and known != key:
        raise InputError(
            f"{first.checkpoint}: it has changed since the run in {workdir} began from it, and the reference computed "
            f"then is not in {cache}; put one of them back, or use another workdir"
        )
    if _is_missing(cache, key):
        _compute(_directory(cache, key), config, first.model, weights, loader, mesh)
    return _read(cache, key, config, loader)


def _weights(start: Origin, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> Frozen:
    """Returns the weights that the phase starts from: the base with all its adapters, the one to be trained last."""
    now, frozen, _ = origin.restore(start, optimizer, mesh, seed)
    if frozen is None or start.adapter is None:
        return state.freeze(now.params, (), seed, mesh)
    return dataclasses.replace(frozen, below=(*frozen.below, Adapter(now.params, start.adapter)))


def _key(weights: Frozen, model: ModelConfig, loader: Loader) -> str:
    adapters = [[dataclasses.asdict(each.config), digest(each.weights)] for each in weights.below]
    of_weights = [digest(weights.params), str(jax.tree.leaves(weights.params)[0].dtype), adapters]
    return hashing.digest({"data": loader.fingerprint, "weights": of_weights, "model": dataclasses.asdict(model)})


def _directory(cache: Path, key: str) -> Path:
    return cache / f"reference-{key[:32]}"


def _is_missing(cache: Path, key: str) -> bool:
    """Returns whether any host finds no log-probabilities; all compute them then, or none."""
    return distributed.any_host(not _directory(cache, key).is_dir())


def _held_out(config: PhaseConfig) -> list[str]:
    return [name for name, source in config.data.sources.items() if source.holdout > 0]


def _read(cache: Path, key: str, config: PhaseConfig, loader: Loader) -> Reference:
    def arrays(prefix: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        paths = {name: _directory(cache, key) / f"{prefix}-{loader.source_names.index(name)}.npy" for name in names}
        return {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in paths.items()}

    return Reference(key, arrays("rows", loader.source_names), arrays("held_out", _held_out(config)))


def _compute(
    directory: Path, config: PhaseConfig, model: ModelConfig, weights: Frozen, loader: Loader, mesh: Mesh
) -> None:
    """Writes the arrays of `Reference`; all hosts compute them, and the first one on each storage keeps its copy."""
    began = time.monotonic()
    run = jax.jit(
        lambda frozen, batch: _in_parts(frozen, model, batch, config.micro_batches),
        out_shardings=sharding.replicated(mesh),
    )

    def all_of(batches: Iterable[Batch]) -> np.ndarray:
        return np.concatenate([jax.device_get(run(weights, placement.place_whole(each, mesh))) for each in batches])

    whole = {f"rows-{number}": all_of(loader.epoch_batches(name)) for number, name in enumerate(loader.source_names)}
    for name in _held_out(config):
        number = loader.source_names.index(name)
        whole[f"held_out-{number}"] = all_of(loader.holdout_batches(name, sys.maxsize))
    with storage.new_directory(directory, shared=True) as temporary:
        for name, array in whole.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
    log.info("%s: log-probabilities under the reference took %.1f s", config.name, time.monotonic() - began)


def _in_parts(
    frozen: Frozen, model: ModelConfig, batch: objective.Batch, micro_batches: int
) -> Float[Array, "B T"]:
    """Returns `objective.log_probabilities`, for as many rows at a time as a micro-batch of the step has."""
    cut = {name: jnp.moveaxis(rows.reshape(-1, micro_batches, *rows.shape[1:]), 1, 0) for name, rows in batch.items()}
    found_MBT = jax.lax.map(lambda rows: objective.log_probabilities(frozen, model, rows), cut)
    return jnp.moveaxis(found_MBT, 0, 1).reshape(batch["tokens"].shape)
