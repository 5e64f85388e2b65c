"""`python -m msm_jax.plan` without a TPU compiler: what it refuses, and plans for the local devices."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK_COMPILES

ROOT = Path(__file__).parent.parent

# Importing JAX takes most of the time, so that all come from one process; absl parses flags once, so that each forks.
STATUSES = """
import contextlib, io, json, os, sys
from msm_jax import cli, plan
for args in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    told = io.StringIO()
    sys.argv = ["plan", *args]
    with contextlib.redirect_stderr(told):
        status = cli.status(plan.main, sys.argv)
    print(json.dumps([status, told.getvalue()]), flush=True)
    os._exit(0)
"""
REFUSED = {
    "v5e:3x3": (["--config=configs/plan.py:llama3.1-8b", "--topology=v5e:3x3"], "the nearest is v5e:2x4 of 8 chips"),
    "v9": (["--config=configs/plan.py:llama3.1-8b", "--topology=v9:2x2"], "use one of v4, v5e, v5p, v6e"),
    "chips": (
        ["--config=configs/plan.py:llama3.1-8b", "--topology=v5e:2x4"],
        "the nearest mesh that fits: data=1, fsdp=1, tensor=8",
    ),
    "rows": (
        ["--config=configs/plan.py:llama3.1-8b,chips=8", "--topology=v5e:2x4", "--config.phases.train.batch_rows=12"],
        "the nearest that is: 8 or 16",
    ),
    "tensor": (
        ["--config=configs/plan.py:smollm2-135m,seq=512,chips=4,tensor=4", "--topology=v5e:2x2"],
        "tensor of 4 does not divide heads = 9",
    ),
    "long": (
        ["--config=configs/plan.py:qwen3-32b,seq=65536,chips=8", "--topology=v5e:2x4"],
        "max_position_embeddings = 32768; lower it",
    ),
    "slots": (
        ["--config=configs/plan.py:qwen3-32b,chips=8", "--topology=v5e:2x4", "--decode_slots=65536"],
        "max_position_embeddings = 32768; lower it",
    ),
    "libtpu": (["--config=configs/plan.py:llama3.1-8b,chips=8", "--topology=v5e:2x4"], "pip install 'msm_jax[tpu]'"),
    "preset": (["--config=configs/plan.py:llama3-8b", "--topology=v5e:1x1"], "llama3.1-8b"),
    "option": (["--config=configs/plan.py:llama3.1-8b,sequence=8", "--topology=v5e:1x1"], "there are seq, lora, chips"),
    "remat": (["--config=configs/plan.py:llama3.1-8b,remat=all", "--topology=v5e:1x1"], "none, dots, full, offload"),
    "price": (
        ["--config=configs/plan.py:llama3.1-8b", "--topology=v5e:1x1", "--price_per_chip_hour=-1"],
        "must not be negative",
    ),
    "config": (["--topology=v5e:1x1"], "--config is missing"),
}


@pytest.fixture(scope="module")
def statuses():
    environment = {name: value for name, value in os.environ.items() if name != "MSM_JAX_TPU_PYTHON"}
    commands = json.dumps([args for args, _ in REFUSED.values()])
    command = [sys.executable, "-c", STATUSES, commands]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return dict(zip(REFUSED, map(json.loads, run.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_planned_is_refused_in_one_line_with_what_can(statuses, name):
    status, told = statuses[name]
    assert (status, told.count("\n")) == (2, 1), told
    assert told.startswith("refused: ") and REFUSED[name][1] in told


@pytest.mark.parametrize(
    ("python", "message"),
    [("/nowhere/python", "/nowhere/python does not run"), ("/bin/false", "/bin/false does not run")],
)
def test_a_python_that_does_not_run_is_refused(python, message):
    command = [sys.executable, "-m", "msm_jax.plan", *REFUSED["libtpu"][0]]
    environment = {**os.environ, "MSM_JAX_TPU_PYTHON": python}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1) and message in run.stderr


def test_devices_at_hand_are_planned_and_planned_again_from_the_cache(tmp_path):
    command = [
        sys.executable, "-m", "msm_jax.plan", "--config=configs/plan.py:mini-0.3m,seq=64,chips=2",
        "--decode_rows=2", "--decode_slots=64", f"--workdir=file://{tmp_path}",
    ]
    # Two devices have to be simulated, as a phase would.
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": QUICK_COMPILES}
    first, again = (
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert len(re.findall(r"^headroom: 9\d %$", first.stdout, re.MULTILINE)) == 2
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [program["kind"] for program in plan["programs"]] == ["train", "decode"]
    assert plan["fits"] and plan["topology"] is None
    train = plan["programs"][0]
    assert train["mesh"] == {"data": 1, "fsdp": 2, "tensor": 1} and train["collectives"]
    assert train["memory"]["needed"] > train["memory"]["optimizer"] > train["memory"]["weights"] > 0
    assert train["flops"]["hardware"]["products"] > 0 and train["bound"] is None
    assert plan["phases"][0]["tokens"] == 1000 * 2 * 64 and plan["phases"][0]["seconds_at_least"] is None
    assert "compiles" in first.stdout and "compiles" not in again.stdout
