"""Programs compile for TPU slices of which no chip is present; their memory and collectives are as expected.

MSM_JAX_TPU_PYTHON names the Python of an environment with libtpu; without it these tests are skipped.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from msm_jax.models.lora import LoraConfig
from msm_jax.models.presets import preset
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.planning import compiler, memory, topology
from msm_jax.planning.programs import Job
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.program import TrainProgram

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get(compiler.PYTHON), reason=f"{compiler.PYTHON} names no Python with libtpu, so no TPU program"
    ),
]
# Of sizes none of which is another, so that a shape tells what an array holds.
MODEL = preset(
    "qwen3-0.6b", num_layers=3, hidden_size=512, intermediate_size=768, vocab_size=2560, num_heads=8, num_kv_heads=4,
    head_dim=128, tie_embeddings=False,
)
ROWS, LENGTH = 4, 384


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Compiles each program once."""
    with compiler.Compiler(tmp_path_factory.mktemp("figures"), tpu=True, sources={}) as one:
        yield lambda job: one.figures(job)


def job(name, mesh, adapter=None, rows=ROWS, **fields):
    model = preset("qwen3-0.6b", **{**MODEL.__dict__, **fields})
    return Job(TrainProgram(model, OptimizerConfig(1e-4), 1000, rows, LENGTH, adapter=adapter), mesh, name)


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_a_step_compiles_for_every_family_with_its_kernel_and_its_memory(measured, name):
    figures = measured(job(name, MeshConfig(fsdp=4)))
    chip = topology.parse(name).chip
    assert figures["device_kind"].startswith(chip.kind)
    assert figures["flops"]["kernels"] > 0, "attention is not the kernel's"
    found = memory.account(figures)
    # Of the 95 GiB that v5p's data sheet has, the compiler gives a little more.
    assert 0.9 * chip.hbm_bytes < found.capacity < 1.01 * chip.hbm_bytes
    assert found.fits and found.needed > found.weights + found.optimizer > 0
    assert 3 * found.weights == pytest.approx(found.weights + found.optimizer, rel=1e-3)


def test_a_step_that_does_not_fit_is_told_by_the_compiler(measured):
    figures = measured(job("v5e:2x2", MeshConfig(fsdp=4), rows=8192, attention="reference", remat="none"))
    found = memory.account(figures)
    assert "exhausted" in figures and not found.fits and found.needed > found.capacity > 15 * 2**30


@pytest.mark.parametrize("adapter", [None, LoraConfig(16, 32.0)], ids=["full", "lora"])
def test_chips_exchange_parameters_and_gradients_and_nothing_else(measured, adapter):
    figures = measured(job("v5e:2x2", MeshConfig(fsdp=4), adapter))
    strays = [one for one in figures["collectives"] if not expected(one, adapter)]
    assert not strays, "\n".join(str(one) for one in strays)
    kinds = {one["kind"] for one in figures["collectives"]}
    assert "all-gather" in kinds and kinds & {"all-reduce", "reduce-scatter", "collective-permute"}


def expected(one, adapter):
    """Returns whether a collective is one that the design expects."""
    sizes = {512, 768, 2560, 8 * 128, 4 * 128, 128, 8, 4, 3, 1} | ({16} if adapter else set())
    arrays = [tuple(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\[([\d,]*)\]", one["shape"])]
    if one["bytes"] <= 2**16:
        return True  # counts, norms and ids of tokens
    if one["kind"] == "all-to-all":
        return one["bytes"] == ROWS * LENGTH * 512 * 2 // 4  # what the embedding's columns found, and its gradient
    return all(set(dims) <= sizes for dims in arrays)


def test_the_command_plans_a_phase(tmp_path):
    command = [
        sys.executable, "-m", "msm_jax.plan", "--config=configs/plan.py:smollm2-135m,seq=512,chips=4",
        "--topology=v5e:2x2", "--price_per_chip_hour=2", "--decode_rows=0", f"--workdir={tmp_path}",
        "--config.phases.train.model_overrides.remat=dots",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    first = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert re.search(r"^headroom: 9\d %$", first.stdout, re.MULTILINE)
    plan = json.loads((tmp_path / "plan.json").read_text())
    (phase,), (step,) = plan["phases"], plan["programs"]
    assert (phase["tokens"], phase["optimizer_steps"]) == (1000 * 4 * 512, 1000)
    assert phase["seconds_at_least"] == pytest.approx(1000 * step["bound"]["seconds"])
    assert phase["cost_at_least"] == pytest.approx(phase["seconds_at_least"] / 3600 * 4 * 2)
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "compiles" in first.stdout and "compiles" not in again.stdout
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
