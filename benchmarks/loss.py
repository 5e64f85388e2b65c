"""The loss computed in blocks: its temporary memory at a large vocabulary, and its speed at a small one.

    python benchmarks/loss.py

It is compared with a loss that holds all logits at once. The compiler reports the memory of loss and gradients on one
device, without arguments and results; the large arrays are not allocated.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record
from msm_jax import cli
from msm_jax.models.config import ModelConfig
from msm_jax.training import loss


@dataclass(frozen=True)
class Case:
    """A loss over hidden states of `rows` × `length` tokens, with an output matrix of `vocab` × `size`."""

    name: str
    rows: int
    length: int
    size: int
    vocab: int

    @property
    def logits_bytes(self) -> int:
        """Returns the bytes of all logits in float32."""
        return 4 * self.rows * self.length * self.vocab


LARGE = (
    Case("Qwen3-0.6B", 8, 4096, 1024, 151_936),
    Case("Qwen3-8B", 8, 4096, 4096, 151_936),
)
SMALL = (
    Case("mini-0.3m, the demo's step", 8, 128, 64, 2304),
    Case("mini-15m", 8, 512, 384, 8192),
)


def main() -> None:
    """Measures and publishes."""
    cli.prepare_backend(devices=1, threads=record.THREADS.value)
    rows = []
    for case in LARGE:
        ours, naive = (memory(program, case) for program in (blocked, whole))
        rows.append((
            f"{case.name}, vocabulary {case.vocab:,}", f"{ours / 2**20:,.0f}", f"{naive / 2**20:,.0f}",
            f"{ours / case.logits_bytes:.1%} (bound: 5 %)",
        ))
    record.publish(record.Result(
        title="Memory of the loss",
        about=f"Temporary memory of loss and gradients over {LARGE[0].rows} × {LARGE[0].length:,} tokens, as compiled "
        "for a CPU, in MiB. The compiler reports one number, so there is no spread.",
        columns=("", "ours", "all logits at once", "ours / float32 logits"),
        rows=tuple(rows),
    ))
    timed = []
    for case in SMALL:
        ours_s, naive_s = speed(case, record.REPEATS.value)
        tokens = case.rows * case.length
        timed.append((
            f"{case.name}, vocabulary {case.vocab:,}, {tokens:,} tokens", f"{tokens / min(ours_s):,.0f}",
            f"{tokens / min(naive_s):,.0f}", record.quotients(naive_s, ours_s),
        ))
    record.publish(record.Result(
        title="Speed of the loss",
        about="Loss and gradients: tokens/s of the best turn, and the ratio of tokens/s over all turns (bound: 0.9).",
        columns=("", "ours", "all logits at once", "ours / theirs"),
        rows=tuple(timed),
    ))


def blocked(params: Any, model: ModelConfig, hidden: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the loss of this package."""
    return loss.cross_entropy(params, model, hidden, targets, mask)[0]


def whole(params: Any, model: ModelConfig, hidden: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the loss that holds all logits at once."""
    logits_BTV = jnp.einsum("btd,vd->btv", hidden, params["embedding"], preferred_element_type=jnp.float32)
    correct_BT = jnp.take_along_axis(logits_BTV, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(jax.nn.logsumexp(logits_BTV, axis=-1) - correct_BT, where=mask)


def compiled(program: Callable[..., jax.Array], case: Case) -> Any:
    """Compiles the value and the gradients for weights and hidden states, for arguments like those of `arrays`."""
    model = ModelConfig(
        case.vocab, case.size, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, intermediate_size=8
    )
    grad = jax.jit(jax.value_and_grad(lambda p, h, t, m: program(p, model, h, t, m), argnums=(0, 1)))
    return grad.lower(*jax.eval_shape(lambda: arrays(case))).compile()


def arrays(case: Case) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
    """Returns weights, hidden states, targets and mask."""
    keys = jax.random.split(jax.random.key(0), 3)
    tokens = (case.rows, case.length)
    weights = {"embedding": jax.random.normal(keys[0], (case.vocab, case.size)) * case.size**-0.5}
    hidden = jax.random.normal(keys[1], (*tokens, case.size))
    return weights, hidden, jax.random.randint(keys[2], tokens, 0, case.vocab), jnp.ones(tokens, bool)


def memory(program: Callable[..., jax.Array], case: Case) -> int:
    """Returns the bytes of temporary arrays."""
    return compiled(program, case).memory_analysis().temp_size_in_bytes


def speed(case: Case, repeats: int, clock: Callable[[], float] = time.perf_counter) -> list[list[float]]:
    """Returns the seconds per call of `blocked` and of `whole`, for each turn, by `clock`."""
    given = jax.jit(lambda: arrays(case))()
    runs = [compiled(program, case) for program in (blocked, whole)]
    for run in runs:
        jax.block_until_ready(run(*given))

    def turn(run: Any) -> float:
        began = clock()
        for _ in range(5):
            jax.block_until_ready(run(*given))
        return (clock() - began) / 5

    return record.turns([partial(turn, run) for run in runs], repeats)


if __name__ == "__main__":
    cli.run(main)
