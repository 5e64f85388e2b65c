"""Training speed, compared with transformers on torch and with Tunix: the same weights, packed rows and loss.

    python benchmarks/train_step.py --ref_python=.venv-ref/bin/python --tunix_python=.venv-tunix/bin/python

The sides take turns, each in its own process: this package with one device of all threads and with one device per
thread, torch in the fastest way of running it, and Tunix if a Python with it is given. The result is the ratio of their
time to the better one of this package with its spread over the turns, the ratio for bare matrix products of the same
shapes, and the time of each part of a step.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record, reference
from msm_jax import cli
from msm_jax.errors import WorkError
from msm_jax.models import presets, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import backend, sharding
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import optimizer, state, step
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.objective import NEXT_TOKEN


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to train on `rows` × `length` tokens per step. A turn is `steps` steps, one or a few seconds.

    `spread` says whether it is also trained on one device per thread, each with its own copy of the weights and state.
    """

    vocab: int
    rows: int
    length: int
    steps: int
    spread: bool = True

    @property
    def ours(self) -> int:
        """Returns how many of the compared sides are of this package."""
        return 1 + self.spread


CASES = {
    "mini-0.3m": Case(2560, 8, 128, 20),
    "mini-15m": Case(8192, 8, 256, 3),
    "smollm2-135m": Case(49_152, 4, 128, 1, spread=False),
}
OPTIMIZER = OptimizerConfig(1e-3, schedule="constant")
BATCHES = 4  # different batches, used in turn
CHECKED = 6  # steps whose loss must agree
TOLERANCE = 1e-4  # relative

_REF_PYTHON = flags.DEFINE_string("ref_python", None, "Python with torch and transformers; or MSM_JAX_REF_PYTHON.")
_TUNIX_PYTHON = flags.DEFINE_string("tunix_python", None, "Python with google-tunix; or MSM_JAX_TUNIX_PYTHON.")
_PRESETS = flags.DEFINE_list("presets", list(CASES), "Which models to train, from random weights.")
_WORK = flags.DEFINE_string("work", None, "Run as the worker of this package, on the files of this directory.")
_DEVICES = flags.DEFINE_integer("devices", 1, "With --work: simulated devices that share the rows.")


def main() -> None:
    """Runs the sides and publishes a comparison per model."""
    if _WORK.value is not None:
        work(Path(_WORK.value), _DEVICES.value)
        return
    python = reference.find_python(_REF_PYTHON.value)
    tunix = _TUNIX_PYTHON.value or os.environ.get("MSM_JAX_TUNIX_PYTHON", "")
    threads, repeats = record.THREADS.value, record.REPEATS.value
    for preset in _PRESETS.value:
        with tempfile.TemporaryDirectory() as directory:
            write_inputs(Path(directory), preset, CASES[preset], threads)
            measured = compare(Path(directory), python, CASES[preset], threads, repeats, tunix)
        record.publish(result(preset, CASES[preset], threads, measured))


def write_inputs(directory: Path, preset: str, case: Case, threads: int) -> None:
    """Writes weights, rows and settings for both sides."""
    config = model_of(preset, case.vocab)
    reference.write(directory / "weights.npz", reference.weights(initial(config), config))
    reference.write(directory / "rows.npz", packed_rows(BATCHES * case.rows, case.length, case.vocab))
    settings = {
        "model": reference.settings(config),
        "preset": preset,
        "vocab": case.vocab,
        "batches": BATCHES,
        "checked": CHECKED,
        "optimizer": dataclasses.asdict(OPTIMIZER),
        "threads": threads,
        "products": products(config, case.rows * case.length),
    }
    (directory / "settings.json").write_text(json.dumps(settings))


def model_of(preset: str, vocab: int) -> ModelConfig:
    """Returns the model in float32, with unrolled layers and without recomputation, as on the other sides."""
    return presets.preset(preset, vocab_size=vocab, compute_dtype="float32", remat="none", scan_layers=False)


def initial(config: ModelConfig) -> transformer.Params:
    """Returns the weights from which all sides start; the same on each call."""
    return jax.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))


def packed_rows(rows: int, length: int, vocab: int) -> dict[str, np.ndarray]:
    """Returns the arrays [rows, length] of a batch: random documents of 8 to 64 tokens, then padding."""
    rng = np.random.default_rng(0)
    batch = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "targets", "positions", "segment_ids")}
    for row in range(rows):
        start = segment = 0
        while length - start >= 8:
            size = min(int(rng.integers(8, 65)), length - start)
            here, segment = np.s_[row, start : start + size], segment + 1
            ids = rng.integers(0, vocab, size + 1)
            batch["tokens"][here], batch["targets"][here] = ids[:-1], ids[1:]
            batch["positions"][here], batch["segment_ids"][here] = np.arange(size), segment
            start += size
    return {**batch, "loss_mask": batch["segment_ids"] > 0}


def products(config: ModelConfig, tokens: int) -> list[list[int]]:
    """[M, K, N, times] of a step's products with a weight matrix: forward, and both gradients of each."""
    c = config
    forward = [
        (c.hidden_size, c.num_heads * c.head_dim, c.num_layers),
        (c.hidden_size, c.num_kv_heads * c.head_dim, 2 * c.num_layers),
        (c.num_heads * c.head_dim, c.hidden_size, c.num_layers),
        (c.hidden_size, c.intermediate_size, 2 * c.num_layers),
        (c.intermediate_size, c.hidden_size, c.num_layers),
        (c.hidden_size, c.vocab_size, 1),
    ]
    return [
        [*shape, count] for k, n, count in forward for shape in ((tokens, k, n), (tokens, n, k), (k, tokens, n))
    ]


def compare(
    directory: Path, python: str, case: Case, threads: int, repeats: int, tunix: str = ""
) -> dict[str, Any]:
    """Runs the sides (ours on one device, ours on one device a thread if `case` says so, torch, and Tunix if given) in
    turns.

    Returns:
        Per side, in this order: "first" seconds, "peak" MiB, "turns" seconds per step of each turn, "how", and but for
        Tunix "parts"; for the first and for torch: "products" seconds. And what of torch was "tried", and the largest
        "difference" of the losses from torch's.

    Raises:
        WorkError: a side has ended, or the losses of the first steps differ by more than `TOLERANCE`.
    """
    mine = [sys.executable, __file__, f"--work={directory}", f"--threads={threads}"]
    commands = [[*mine, f"--devices={devices}"] for devices in ([1, threads] if case.spread else [1])]
    steps = case.steps
    beside = [(python, "reference_train.py")] + ([(tunix, "reference_tunix.py")] if tunix else [])
    commands += [[interpreter, str(Path(__file__).with_name(name)), str(directory)] for interpreter, name in beside]
    sides, first = [], []
    for command in commands:
        sides.append(reference.Worker(command, threads))
        first.append(sides[-1].first())
    for side in sides:
        side.ask(do="run", steps=CHECKED - 1)
    peak = [side.peak_mib() for side in sides]
    torch = sides[case.ours]
    tried = torch.ask(do="choose", steps=steps)["tried"]
    turns = [[turn(side, steps) for side in sides] for _ in range(repeats)]
    bare = [[side.ask(do="products")["seconds"] for side in (sides[0], torch)] for _ in range(3)]
    parts = [side.ask(do="parts", steps=2 * steps) for side in sides[: case.ours + 1]]
    ended = [side.ask(do="end") for side in sides]
    for side in sides:
        side.close()
    losses = np.array([each["losses"] for each in ended])
    difference = float(np.max(np.abs(losses / losses[case.ours] - 1)))
    if not difference <= TOLERANCE:
        raise WorkError(f"the sides' losses differ by {difference:.1e}, so that their times say nothing: {losses}")
    return {
        "first": first,
        "peak": peak,
        "turns": list(zip(*turns, strict=True)),
        "products": list(zip(*bare, strict=True)),
        "parts": parts,
        "how": [each["how"] for each in ended],
        "tried": tried,
        "difference": difference,
    }


def turn(side: reference.Worker, steps: int) -> float:
    """Returns the seconds per step, after one untimed step that refills caches and memory after the other sides."""
    side.ask(do="run", steps=1)
    return float(side.ask(do="run", steps=steps)["seconds"]) / steps


def work(directory: Path, devices: int) -> None:
    """Runs this package's side: answers the requests on standard input."""
    settings = json.loads((directory / "settings.json").read_text())
    backend.prepare(devices, settings["threads"])
    jax.config.update("jax_enable_compilation_cache", False)
    config = model_of(settings["preset"], settings["vocab"])
    mesh = make_mesh(MeshConfig(data=devices))
    chosen = OptimizerConfig(**settings["optimizer"])
    tx, schedule = optimizer.make_optimizer(chosen, 1), optimizer.schedule(chosen, 1)
    current = state.from_params(initial(config), config, tx, mesh)
    train_step = step.make_train_step(config, tx, schedule, mesh)
    with np.load(directory / "rows.npz") as arrays:
        rows = {name: np.split(arrays[name], settings["batches"]) for name in arrays.files}
    where = sharding.batch_sharding(mesh)
    batches = [
        jax.device_put({name: cut[i] for name, cut in rows.items()}, where) for i in range(settings["batches"])
    ]
    taken, losses = itertools.count(), []

    def take(steps: int) -> None:
        nonlocal current
        for _ in range(steps):
            number = next(taken)
            current, metrics = train_step(current, batches[number % len(batches)], None)
            if number < settings["checked"]:
                losses.append(float(metrics["loss"]))
        jax.block_until_ready(current)

    def parts(repeats: int) -> dict[str, float]:
        pieces: list[Callable[..., Any]] = [
            lambda p, b: transformer.apply(p, config, b["tokens"], b["positions"], b["segment_ids"]),
            lambda p, b: NEXT_TOKEN.loss_sum(p, config, b),
            lambda p, b: step.gradients(p, config, b, 1),
        ]
        upto = [seconds(jax.jit(piece), (current.params, batches[0]), repeats) for piece in pieces]
        upto.append(seconds(take, (1,), repeats))
        return {
            "forward": upto[0],
            "loss": upto[1] - upto[0],
            "backward": upto[2] - upto[1],
            "clipping and AdamW": upto[3] - upto[2],
        }

    with jax.set_mesh(mesh):
        for line in sys.stdin:
            request = json.loads(line)
            answer: dict[str, Any] = {}
            match request["do"]:
                case "run":
                    start = time.perf_counter()
                    take(request.get("steps", 1))
                    answer = {"seconds": time.perf_counter() - start}
                case "parts":
                    answer = parts(request["steps"])
                case "products":
                    answer = {"seconds": sum(reference.product(*each) for each in settings["products"])}
                case "end":
                    how = f"jax {jax.__version__}, {devices} device{'s' * (devices > 1)}"
                    answer = {"losses": losses, "how": how}
            print(json.dumps(answer), flush=True)


def seconds(call: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    """Returns the median seconds of a call, after one that compiles."""
    took = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:])


def result(preset: str, case: Case, threads: int, measured: dict[str, Any]) -> record.Result:
    """Returns the comparison as a table."""
    sides, mine = range(len(measured["how"])), case.ours
    medians = [statistics.median(side) for side in measured["turns"]]
    best = measured["turns"][medians.index(min(medians[:mine]))]
    ratios = [""] * mine + [record.quotients(measured["turns"][side], best) for side in sides[mine:]]
    blank = [""] * (mine - 1)
    ours, theirs = (statistics.median(side) for side in measured["products"])
    rows = [
        ("step, ms", *(f"{1e3 * x:.1f}" for x in medians)),
        ("tokens/s", *(f"{case.rows * case.length / x:,.0f}" for x in medians)),
        ("their time / best of ours", *ratios),
        ("bare products, ms", f"{1e3 * ours:.1f}", *blank, f"{1e3 * theirs:.1f}"),
        ("bare products, theirs / ours", "", *blank, record.quotients(*measured["products"][::-1])),
    ]
    for name in ("forward", "loss", "forward and loss", "backward", "clipping and AdamW"):
        rows.append((f"{name}, ms", *(f"{1e3 * side[name]:.1f}" if name in side else "" for side in measured["parts"])))
    rows.append(("start to first step, s", *(f"{x:.1f}" for x in measured["first"])))
    rows.append(("peak memory, MiB", *(f"{x:,.0f}" for x in measured["peak"])))
    return record.Result(
        title=f"Train step, {preset}",
        about=f"Vocabulary {case.vocab:,}, {case.rows} rows of {case.length} tokens, float32, {threads} threads.",
        columns=("", *measured["how"]),
        rows=tuple((*row, *[""] * (1 + len(sides) - len(row))) for row in rows),
        notes=f"Losses of the first {CHECKED} steps agree to {measured['difference']:.0e}. Start and memory are "
        "measured without a compile cache, and for torch before compilation. The parts of our step are differences "
        "between programs that end after each part, which are compiled separately, so that a part can be negative. "
        "Ways of running torch that were tried, in ms: "
        + ", ".join(f"{name} {took}" for name, took in measured["tried"].items()) + ".",
    )


if __name__ == "__main__":
    cli.run(main)
