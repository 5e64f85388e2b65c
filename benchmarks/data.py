"""Data: the time to plan the rows of a million documents, and the speed of the loader.

    python benchmarks/data.py

Packing is compared with Grain's first-fit packing, which places documents one by one as they are read. The loader is
compared with the demo's train step on one thread.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path

import grain
import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import demo, record
from msm_jax import cli
from msm_jax.data import packing
from msm_jax.data.loader import Batch, Loader
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import placement

DOCUMENTS, SEQ_LEN = 1_000_000, 4096
PEER_DOCUMENTS = 10_000  # for Grain, whose time is proportional to the number of documents
BATCHES, STEPS = 400, 20  # per turn


def main() -> None:
    """Measures and publishes."""
    cli.prepare_backend(devices=1, threads=1)
    repeats = record.REPEATS.value
    ours, theirs, fills = pack(lengths(DOCUMENTS), PEER_DOCUMENTS, repeats)
    record.publish(record.Result(
        title="Packing",
        about=f"Seconds to plan the rows of {DOCUMENTS:,} documents ({SEQ_LEN:,} slots a row, bound: 10 s). "
        f"Grain's first fit packed {PEER_DOCUMENTS:,} of them; its time is scaled up.",
        columns=("", "ours", "Grain, first fit", "theirs / ours"),
        rows=(
            ("seconds", record.spread(ours), record.spread(theirs), record.quotients(theirs, ours)),
            ("slots filled", f"{fills[0]:.2%}", f"{fills[1]:.2%}", ""),
        ),
    ))
    with tempfile.TemporaryDirectory() as directory:
        rates = feed(Path(directory), "", BATCHES, STEPS, repeats)
    record.publish(record.Result(
        title="Loader",
        about="Tokens/s that the loader makes on one thread, and those of the demo's train step on one (bound: 100).",
        columns=("", "loader", "train step", "loader / train step"),
        rows=(("tokens/s", *(record.spread(rate, digits=0) for rate in rates), record.quotients(*rates)),),
    ))


def lengths(documents: int) -> np.ndarray:
    """Returns numbers of slots with a realistic distribution: half are below 500, a few are longer than a row."""
    rng = np.random.default_rng(0)
    return np.clip(rng.lognormal(np.log(500), 1.0, documents), 8, 8 * SEQ_LEN).astype(np.int64)


def pack(slots: np.ndarray, of_peer: int, repeats: int) -> tuple[list[float], list[float], tuple[float, float]]:
    """Returns the seconds of `packing` and of Grain's packing for each turn, and the share of slots that each fills."""
    fills = [0.0, 0.0]

    def ours() -> float:
        began = time.perf_counter()
        chunks = packing.split_into_chunks(slots, SEQ_LEN)
        plan = packing.plan(chunks.length, SEQ_LEN, [0])
        took = time.perf_counter() - began
        fills[0] = slots.sum() / (plan.num_rows * SEQ_LEN)
        return took

    some = packing.split_into_chunks(slots[:of_peer], SEQ_LEN).length

    def theirs() -> float:
        rows = grain.experimental.FirstFitPackIterDataset(
            grain.MapDataset.source(some).map(lambda size: {"tokens": np.zeros(size, np.int32)}).to_iter_dataset(),
            length_struct={"tokens": SEQ_LEN},
            num_packing_bins=64,
        )
        began = time.perf_counter()
        count = sum(1 for _ in rows)
        took = time.perf_counter() - began
        fills[1] = some.sum() / (count * SEQ_LEN)
        return took * len(slots) / of_peer

    packed, first_fit = record.turns([ours, theirs], repeats)
    return packed, first_fit, (fills[0], fills[1])


def feed(directory: Path, variant: str, batches: int, steps: int, repeats: int) -> list[list[float]]:
    """Returns the tokens/s of the loader and of the train step, for each turn."""
    config = demo.phase(directory, variant)
    mesh = make_mesh(MeshConfig())
    train_step, now, found = demo.start(config, directory, mesh)
    loader = Loader(
        config.data, found.tokenizer, found.template, config.batch_rows, config.seed, config.data.cache_dir
    )
    made = loader.iterate()
    few = [placement.place(next(made), mesh) for _ in range(4)]

    def load() -> float:
        began = time.perf_counter()
        tokens = sum(_tokens(batch) for batch in itertools.islice(made, batches))
        return tokens / (time.perf_counter() - began)

    def eat() -> float:
        nonlocal now
        began, tokens = time.perf_counter(), []
        for batch in itertools.islice(itertools.cycle(few), steps):
            now, metrics = train_step(now, batch, None)
            tokens.append(metrics["tokens"])
        return sum(map(int, jax.device_get(tokens))) / (time.perf_counter() - began)

    with jax.set_mesh(mesh):
        eat()
        return record.turns([load, eat], repeats)


def _tokens(batch: Batch) -> int:
    return int(np.count_nonzero(batch.segment_ids))


if __name__ == "__main__":
    cli.run(main)
