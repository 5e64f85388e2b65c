"""Saving and restoring a checkpoint, compared with writing and reading the same bytes as plain files.

    python benchmarks/checkpoints.py --checkpoint_preset=smollm2-135m

A checkpoint holds parameters, AdamW's moments and the step. Training waits only for the copy to the host; the rest is
done in the background until the checkpoint is committed. There is one plain file per array, and the files are written
and synced one after another. A restore first compares the files with the checkpoint's checksums, once in a process.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record
from msm_jax import cli
from msm_jax.checkpoints import store
from msm_jax.errors import WorkError
from msm_jax.models import presets
from msm_jax.models.config import ModelConfig
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import optimizer, state
from msm_jax.training.config import OptimizerConfig

_PRESET = flags.DEFINE_string("checkpoint_preset", "mini-15m", "Which model to save, with random weights.")


def main() -> None:
    """Measures and publishes."""
    cli.prepare_backend(devices=1, threads=record.THREADS.value)
    with tempfile.TemporaryDirectory() as directory:
        size, found = measure(presets.preset(_PRESET.value), Path(directory), record.REPEATS.value)
    waits, commits, plain_writes, checks, restores, plain_reads = found
    rates = [record.spread([size / 2**20 / x for x in seconds], digits=0) for seconds in found]
    record.publish(record.Result(
        title="Checkpoints",
        about=f"{_PRESET.value} with AdamW's moments, {size / 2**20:,.0f} MiB, in a temporary directory; MiB/s. Both "
        "sides may read files that were just written from the page cache.",
        columns=("", "ours", "plain files", "ours / plain"),
        rows=(
            ("save, until training continues", rates[0], "", record.quotients(plain_writes, waits)),
            ("save, until committed", rates[1], rates[2], record.quotients(plain_writes, commits)),
            ("comparing with the checksums", rates[3], rates[5], record.quotients(plain_reads, checks)),
            ("restore, without that", rates[4], rates[5], record.quotients(plain_reads, restores)),
        ),
    ))


def measure(model: ModelConfig, directory: Path, repeats: int) -> tuple[int, list[list[float]]]:
    """Returns the bytes of a checkpoint and, for each turn, six times in seconds.

    They are: until a save returns, until it is committed, of writing plain files, of comparing with the checksums, of
    restoring, and of reading plain files.
    """
    mesh, adamw = make_mesh(MeshConfig()), optimizer.make_optimizer(OptimizerConfig(1e-3), 1)
    now = state.create(model, adamw, mesh, jax.random.key(0))
    tree = {"params": now.params, "opt_state": now.opt_state, "step": now.step}
    shapes = state.abstract(model, adamw, mesh)
    target = {"params": shapes.params, "opt_state": shapes.opt_state, "step": shapes.step}
    took: list[list[float]] = [[] for _ in range(6)]
    for turn in range(repeats):
        writer, marks = store.Writer(directory / "run", keep=1), [time.perf_counter()]
        writer.save(turn, tree, {}, {})
        marks.append(time.perf_counter())
        writer.wait()
        marks.append(time.perf_counter())
        plain = directory / "plain"
        write(plain, tree)
        marks.append(time.perf_counter())
        store.check(writer.path(turn), target)
        marks.append(time.perf_counter())
        restored = jax.block_until_ready(store.load(writer.path(turn), target))
        marks.append(time.perf_counter())
        read = jax.block_until_ready(_read(plain, tree))
        marks.append(time.perf_counter())
        if not all(bool(jnp.array_equal(a, b)) for a, b in zip(*map(jax.tree.leaves, (restored, read)), strict=True)):
            raise WorkError("the restored arrays differ from the saved ones")
        waited, committed, *rest = np.diff(marks).tolist()
        for seconds, value in zip(took, (waited, waited + committed, *rest), strict=True):
            seconds.append(value)
        shutil.rmtree(plain)
        del restored, read
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), took


def write(plain: Path, tree: Any) -> None:
    """Writes one file per array."""
    plain.mkdir()
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        with (plain / f"{i}.npy").open("wb") as file:
            np.save(file, np.asarray(leaf), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())


def _read(plain: Path, tree: Any) -> list[jax.Array]:
    return [jnp.array(np.load(plain / f"{i}.npy", allow_pickle=False)) for i in range(len(jax.tree.leaves(tree)))]


if __name__ == "__main__":
    cli.run(main)
