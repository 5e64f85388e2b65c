"""Dispatch overhead: the host's time until the compiled train step returns, without waiting for its results.

    python benchmarks/dispatch.py

The time of a compiled identity over the same arrays, which is JAX's own part, is subtracted.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record
from msm_jax import cli
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import program, state
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.program import TrainProgram


@dataclass(frozen=True)
class Case:
    """A model of such small layers that the host's part dominates a step. A turn is `calls` steps."""

    layers: int = 24
    size: int = 16
    rows: int = 2
    length: int = 16
    calls: int = 40


def main() -> None:
    """Measures and publishes."""
    cli.prepare_backend(devices=1, threads=record.THREADS.value)
    case = Case()
    ours, identity = measure(case, record.REPEATS.value)
    over = [1e3 * (a - b) for a, b in zip(ours, identity, strict=True)]
    record.publish(record.Result(
        title="Dispatch overhead",
        about=f"Host time until a train step of {case.layers} layers of size {case.size} returns, in ms; the median of "
        f"{case.calls} calls in each of {len(ours)} turns, each call made after the one before has finished.",
        columns=("", "ms"),
        rows=(
            ("train step", record.spread([1e3 * x for x in ours], digits=3)),
            ("identity over the same arrays", record.spread([1e3 * x for x in identity], digits=3)),
            ("overhead (bound: 0.3)", record.spread(over, digits=3)),
            ("train step / identity", record.quotients(ours, identity)),
        ),
    ))


def measure(case: Case, repeats: int, clock: Callable[[], float] = time.perf_counter) -> list[list[float]]:
    """Returns the seconds until the train step returns, and until the identity does, for each turn, by `clock`."""
    model = ModelConfig(
        vocab_size=32, hidden_size=case.size, num_layers=case.layers, num_heads=2, num_kv_heads=1, head_dim=8,
        intermediate_size=2 * case.size,
    )
    shape = TrainProgram(model, OptimizerConfig(1e-3), 1000, case.rows, case.length)
    mesh = make_mesh(MeshConfig())
    names = ("tokens", "targets", "segment_ids", "positions", "loss_mask")
    rows = {name: jnp.ones((case.rows, case.length), bool if name == "loss_mask" else jnp.int32) for name in names}
    batch = jax.device_put(rows, sharding.batch_sharding(mesh))
    train_step = program.trace(shape, mesh).lower().compile()
    first, second = (state.create(model, shape.adamw, mesh, jax.random.key(0)) for _ in range(2))
    identity = jax.jit(lambda now, rows: (now, rows), donate_argnums=0).lower(second, batch).compile()
    with jax.set_mesh(mesh):
        sides = ((lambda now, batch: train_step(now, batch, None), first), (identity, second))
        return record.turns([_turn(call, now, batch, case.calls, clock) for call, now in sides], repeats)


def _turn(
    call: Callable[..., Any], now: Any, batch: Any, calls: int, clock: Callable[[], float]
) -> Callable[[], float]:
    def turn() -> float:
        nonlocal now
        took = []
        for _ in range(calls):
            jax.block_until_ready(now)
            began = clock()
            now, rest = call(now, batch)
            took.append(clock() - began)
            jax.block_until_ready(rest)
        return statistics.median(took)

    return turn


if __name__ == "__main__":
    cli.run(main)
