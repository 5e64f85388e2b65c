"""Training on one GPU, compared with torch: tokens/s, MFU and peak memory at 4,096 tokens in bfloat16, full and LoRA.

    python benchmarks/gpu.py --write

It ends within nine minutes, and names the cases for which the time did not suffice. Weights are random. Each side of
each case runs alone on the GPU, in its own process. The other side is the same model in plain torch, with flash
attention, compiled layers and loss, and fused AdamW; --torch_python names a Python with torch if this one lacks it.
This package takes the most rows that fit, of those listed, and torch as many. This package keeps the matrix products
of each layer and recomputes the rest; torch keeps what its compiler chooses, or recomputes whole layers if that does
not fit. This package masks attention to the documents of packed rows, as in users' runs; torch's attention is only
causal. Model FLOPs are those of the causal model without recomputation.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record
from msm_jax import cli
from msm_jax.errors import WorkError
from msm_jax.models import presets, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import metrics, program, state
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.program import TrainProgram

OPTIMIZER = OptimizerConfig(1e-4, schedule="constant")
LORA = LoraConfig(64, 128.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """Training all weights or an adapter on rows of `length` random tokens. The first of `rows`, numbers of rows, that
    fits is used."""

    name: str
    model: ModelConfig
    lora: bool
    rows: tuple[int, ...]
    length: int = 4096


def cases() -> list[Case]:
    """Returns the cases, the most important first; those for which the time does not suffice are left out and named."""
    one, three, small = (
        presets.preset(name, rope_scaling=None) for name in ("llama3.2-1b", "llama3.2-3b", "smollm2-135m")
    )
    return [
        Case("llama3.2-1b, full", one, False, (8, 4)),
        Case("llama3.2-3b, full", three, False, (8, 4, 2)),
        Case("llama3.2-1b, LoRA", one, True, (8, 4)),
        Case("llama3.2-3b, LoRA", three, True, (4, 2)),
        Case("smollm2-135m, full", small, False, (16,)),
        Case("smollm2-135m, LoRA", small, True, (16,)),
    ]


_TORCH_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "A Python with torch.")
_MINUTES = flags.DEFINE_float("minutes", 8.5, "After which no further case begins.")
_STEPS = flags.DEFINE_integer("gpu_steps", 12, "Timed steps of each side.")
_SIDE = flags.DEFINE_string("side", None, "Run as the worker of this package, on the case in this file.")


def main() -> None:
    """Runs both sides and publishes the comparison."""
    if _SIDE.value is not None:
        cli.prepare_backend(devices=1, threads=0)
        print(json.dumps(ours(json.loads(Path(_SIDE.value).read_text()))))
        return
    began, rows, said, device = time.monotonic(), [], [], ""
    for case in cases():
        left = 60 * _MINUTES.value - (time.monotonic() - began)
        if left < 30:
            said.append(f"{case.name}: not measured, the time was over.")
            continue
        with tempfile.TemporaryDirectory() as directory:
            pair = compare(case, Path(directory), _TORCH_PYTHON.value, _STEPS.value, left)
        device = next((side["device"] for side in pair if "device" in side), device)
        rows.append(row(case, *pair))
        said += [f"{case.name}, {who}: {side['failed' if 'failed' in side else 'how']}."
                 for who, side in zip(("ours", "torch"), pair, strict=True)]
    record.publish(record.Result(
        title="One GPU",
        about=f"Training steps with {cases()[0].length:,} tokens per row in bfloat16, random weights, AdamW in "
        f"float32; LoRA of rank {LORA.rank} on a frozen bfloat16 base. Medians, and the spread of the ratio over "
        "steps.",
        columns=("", "tokens/s", "torch", "ours / torch", "MFU", "torch", "peak GiB", "torch"),
        rows=tuple(rows),
        notes="\n".join(said),
        device=device,
    ))


def compare(case: Case, directory: Path, torch_python: str, steps: int, left: float) -> list[dict[str, Any]]:
    """Returns the report of each side: "seconds" of each step, "losses", "peak" bytes, "how", "device", our "rows"; or
    "failed", the reason."""
    told = dataclasses.asdict(case)
    settings = {
        "case": told, "lora": dataclasses.asdict(LORA), "steps": steps,
        "optimizer": dataclasses.asdict(OPTIMIZER),
    }
    file, here, until = directory / "case.json", Path(__file__).resolve(), time.monotonic() + left
    file.write_text(json.dumps(settings))
    mine = run([sys.executable, str(here), f"--side={file}"], left)
    told["rows"] = [mine.get("rows", case.rows[-1])]
    file.write_text(json.dumps(settings))
    return [mine, run([torch_python, str(here.with_name("reference_gpu.py")), str(file)], until - time.monotonic())]


def run(command: list[str], left: float) -> dict[str, Any]:
    """Returns the last line that a process prints, or why it failed."""
    # Almost all of the memory: JAX would leave a quarter to others.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.94"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=max(left, 1))
    except subprocess.TimeoutExpired:
        return {"failed": "not measured, the time was over"}
    if done.returncode:
        # The frames of a crash come last and say nothing.
        said = [line for line in done.stderr.strip().splitlines() if not line.lstrip().startswith("@ ")]
        return {"failed": f"ended with status {done.returncode}: {(said or ['no word'])[-1][:200]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(settings: dict[str, Any]) -> dict[str, Any]:
    """Runs this package's side of a case."""
    told = settings["case"]
    model, adapter = ModelConfig.from_json(told["model"]), None
    if told["lora"]:
        adapter = LoraConfig(**{**settings["lora"], "targets": tuple(settings["lora"]["targets"])})
    # With an adapter, layers one after the other take minutes to compile.
    model = dataclasses.replace(model, scan_layers=told["lora"])
    shape = TrainProgram(
        model, OptimizerConfig(**settings["optimizer"]), settings["steps"] + 2, told["rows"][0], told["length"],
        adapter=adapter, base_dtype=model.compute_dtype,
    )
    mesh = make_mesh(MeshConfig())
    shape, train_step = fitting(shape, told["rows"], mesh)
    now, frozen = start(shape, mesh)
    batch = jax.device_put(rows_of(shape), sharding.batch_sharding(mesh))
    seconds, losses = [], []
    with jax.set_mesh(mesh):
        for _ in range(settings["steps"] + 2):
            began = time.perf_counter()
            now, found = train_step(now, batch, frozen)
            losses.append(float(found["loss"]))
            jax.block_until_ready(now)
            seconds.append(time.perf_counter() - began)
    device: Any = mesh.devices.flat[0]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {
        "seconds": seconds[2:], "losses": losses, "peak": peak, "device": device.device_kind, "rows": shape.rows,
        "how": f"jax {jax.__version__}, {shape.rows} rows, remat {shape.model.remat}, "
        f"layers {'in a loop' if shape.model.scan_layers else 'one after the other'}",
    }


def fitting(shape: TrainProgram, rows: list[int], mesh: Any) -> tuple[TrainProgram, Any]:
    """Returns the program with the most rows that fit, or the fewest with full recomputation, and its compiled step."""
    limit = (mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit")
    for number, remat in [*((number, "dots") for number in rows), (rows[-1], "full")]:
        tried = dataclasses.replace(shape, rows=number, model=dataclasses.replace(shape.model, remat=remat))
        try:
            compiled = program.trace(tried, mesh).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            continue
        used = compiled.memory_analysis()
        # Arguments are donated: results take their place.
        if limit is None or used.argument_size_in_bytes + used.temp_size_in_bytes < 0.97 * limit:
            return tried, compiled
    raise WorkError("even with everything recomputed it does not fit in the memory of this device")


def start(shape: TrainProgram, mesh: Any) -> tuple[Any, Any]:
    """Returns a state of random weights, and the frozen weights or None."""
    key, model = jax.random.key(0), shape.model
    now = state.create(model, shape.adamw, mesh, key, shape.adapter)
    frozen = program.abstract_frozen(shape, mesh)
    if frozen is None:
        return now, None
    like = frozen.params

    def base(key: jax.Array) -> Any:
        return jax.tree.map(lambda leaf, to: leaf.astype(to.dtype), transformer.init_params(model, key), like)

    made = jax.jit(base, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))(key)
    return now, state.freeze(made, (), 0, mesh)


def rows_of(shape: TrainProgram) -> dict[str, np.ndarray]:
    """Returns rows of one document each; the other side draws the same."""
    ids = np.random.default_rng(0).integers(0, shape.model.vocab_size, (shape.rows, shape.seq_len + 1))
    ones = np.ones((shape.rows, shape.seq_len), np.int32)
    return {
        "tokens": ids[:, :-1].astype(np.int32), "targets": ids[:, 1:].astype(np.int32), "segment_ids": ones,
        "positions": np.broadcast_to(np.arange(shape.seq_len, dtype=np.int32), ones.shape), "loss_mask": ones == 1,
    }


def row(case: Case, mine: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, ...]:
    """Returns a row of the table, with a dash for a side that failed."""
    tokens = mine.get("rows", case.rows[-1]) * case.length
    flops = metrics.flops_per_token(case.model, (case.length + 1) / 2, LORA if case.lora else None)
    sides = (mine, theirs)
    rates = [tokens / statistics.median(side["seconds"]) if "seconds" in side else None for side in sides]
    peaks = [metrics.peak_flops(side.get("device", "")) for side in sides]
    utilised = [f"{rate * flops / peak:.1%}" if rate and peak else "-" for rate, peak in zip(rates, peaks, strict=True)]
    memory = [f"{side['peak'] / 2**30:.1f}" if side.get("peak") else "-" for side in sides]
    ratio = record.quotients(theirs["seconds"], mine["seconds"]) if all(rates) else "-"
    shown = [f"{rate:,.0f}" if rate else "-" for rate in rates]
    return (case.name, *shown, ratio, *utilised, *memory)


if __name__ == "__main__":
    cli.run(main)
