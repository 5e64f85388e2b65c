"""What saving costs the steps beside it, and whether saves and restores leave anything behind in the process.

    python benchmarks/saving.py

The train loop runs the pretraining of `make demo` and saves every 100 steps. A turn is 50 steps, which begin with a
save that is committed while they run, and the 50 after them. Then its state is saved and restored 200 times, while the
resident memory and the open file descriptors of the process are noted.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import demo, record
from msm_jax import cli
from msm_jax.checkpoints import store
from msm_jax.errors import WorkError
from msm_jax.parallel.mesh import make_mesh
from msm_jax.training import goodput, loop, metrics, optimizer, origin, state
from msm_jax.training.config import PhaseConfig

STEPS = 50
BOUND = 2.0  # percent
# What is allocated once has been allocated by then.
FIRST_ROUND = 20

_PAIRS = flags.DEFINE_integer("pairs", 40, "Turns of 50 steps with a save and 50 without.")
_ROUNDS = flags.DEFINE_integer("rounds", 200, "Saves and restores.")


def main() -> None:
    """Measures and publishes."""
    cli.prepare_backend(devices=1, threads=1)
    with tempfile.TemporaryDirectory() as directory:
        config = phase(Path(directory), "", _PAIRS.value)
        beside, without, waited, late = train(config, Path(directory) / "run")
        size, memory, files = save_and_restore(config, Path(directory) / "run", _ROUNDS.value)
    share = [100 * (b / a - 1) for a, b in zip(without, beside, strict=True)]
    rounds = (FIRST_ROUND, (FIRST_ROUND + len(memory)) // 2, len(memory))
    grown = memory[-1] - memory[FIRST_ROUND - 1]
    record.publish(record.Result(
        title="Saving beside training",
        about=f"The pretraining of `make demo` on one thread: {len(share)} turns of {STEPS} steps that begin with a "
        f"save and {STEPS} without one. Then {len(memory)} rounds, each a save and a restore of its state of "
        f"{size / 2**20:.1f} MiB. They are flat if the last {len(memory) - FIRST_ROUND} rounds add no descriptor "
        "and less memory than one state.",
        columns=("", "measured"),
        rows=(
            ("step, ms", record.spread([1e3 * x / STEPS for x in without])),
            (f"step with a save every {STEPS} steps, ms", record.spread([1e3 * x / STEPS for x in beside])),
            (f"cost of saving, % of the step (bound: {BOUND:.0f})", record.spread(share)),
            ("of which training stands still, ms a save", f"{1e3 * waited:.1f}"),
            (f"saves that were not committed within {STEPS} steps", str(late)),
            *((f"resident memory after {n} rounds, MiB", f"{memory[n - 1] / 2**20:,.1f}") for n in rounds),
            *((f"open file descriptors after {n} rounds", str(files[n - 1])) for n in rounds),
            ("flat", "yes" if grown < size and files[-1] <= files[FIRST_ROUND - 1] else "**no**"),
        ),
    ))


def phase(directory: Path, variant: str, pairs: int) -> PhaseConfig:
    """Returns a phase of `demo.phase` with so many pairs of turns after the first one."""
    steps = 2 * STEPS * (pairs + 1)
    return demo.phase(directory, variant, steps=steps, log_every=STEPS, checkpoint_every=2 * STEPS)


def train(config: PhaseConfig, run_dir: Path) -> tuple[list[float], list[float], float, int]:
    """Runs the loop, without its first turn, in which things happen for the first time.

    Returns:
        The seconds of each STEPS steps that begin with a save, and of those after them; the seconds for which the loop
        stood still in a save; and how many saves were not committed within STEPS steps.
    """
    ends: dict[int, float] = {}
    late = 0

    def report(progress: dict[str, Any]) -> None:
        nonlocal late
        step = progress.get("step", 0)
        if step % STEPS == 0 and step:
            ends[step] = time.perf_counter()
            late += step % (2 * STEPS) == STEPS and step > STEPS and store.at_step(run_dir, step - STEPS) is None

    loop.train(config, run_dir, report)
    saves = range(2 * STEPS, config.steps, 2 * STEPS)
    beside = [ends[step + STEPS] - ends[step] for step in saves]
    without = [ends[step + 2 * STEPS] - ends[step + STEPS] for step in saves]
    return beside, without, goodput.summary(run_dir)["checkpoint"] / (len(saves) + 1), late


def save_and_restore(config: PhaseConfig, run_dir: Path, rounds: int) -> tuple[int, list[int], list[int]]:
    """Returns the bytes of a run's state, and the resident bytes and open file descriptors after each round.

    Raises:
        WorkError: the state that is restored last has other bits than the first one.
    """
    mesh = make_mesh(config.mesh)
    found = origin.find(config, run_dir)
    shapes = state.abstract(found.model, optimizer.make_optimizer(config.optimizer, config.steps), mesh)
    first = tree = store.load(run_dir, vars(shapes))
    writer = store.Writer(run_dir, keep=1)
    memory, files = [], []
    for count in range(1, rounds + 1):
        writer.save(config.steps + count, tree, {}, found.assets)
        writer.wait()
        tree = jax.block_until_ready(store.load(writer.path(config.steps + count), vars(shapes)))
        gc.collect()
        memory.append(metrics.memory([])["host_bytes"] or 0)
        files.append(len(os.listdir("/proc/self/fd")))
    pairs = zip(*map(jax.tree.leaves, (first, tree)), strict=True)
    if any(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in pairs):
        raise WorkError("the restored arrays differ from the saved ones")
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), memory, files


if __name__ == "__main__":
    cli.run(main)
