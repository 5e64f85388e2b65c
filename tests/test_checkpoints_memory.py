"""Conversion holds only a few slices of the weights, whatever the size of the model: largest RssAnon, both ways."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hf_directories import BFLOAT16, write_sparse

from msm_jax.checkpoints import safetensors
from msm_jax.models import families
from msm_jax.models.config import ModelConfig
from msm_jax.models.presets import PRESETS

ROOT = Path(__file__).parent.parent
GIB = 2**30


def most_anonymous(*arguments):
    """Returns the largest RssAnon of a Python process in bytes, sampled a hundred times a second; it must succeed."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                most = max(most, int(line.split()[1]) * 1024)
        time.sleep(0.01)
    assert process.returncode == 0
    return most


def both_ways(directory, dtype=()):
    """Returns the largest memory of import and export; removes the large files that it makes."""
    convert = ("-m", "msm_jax.convert")
    into = most_anonymous(*convert, f"--from_hf={directory / 'hf'}", f"--to_checkpoint={directory / 'run'}", *dtype)
    shutil.rmtree(directory / "hf")
    out = most_anonymous(*convert, f"--from_checkpoint={directory / 'run'}", f"--to_hf={directory / 'out'}")
    for made in ("run", "out"):
        shutil.rmtree(directory / made)
    return into, out


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's anonymous memory")
def test_memory_does_not_grow_with_the_model(tmp_path):
    """For a model of 1.4 GB, conversion needs far less memory than that, also on a slow disk."""
    (tmp_path / "hf").mkdir()
    write_sparse(tmp_path / "hf", ModelConfig(2000, 1024, 16, 8, 8, 128, 12_800), shards=4)
    imports = most_anonymous("-c", "import msm_jax.convert, jax; jax.devices()")
    into, out = both_ways(tmp_path)
    assert max(into, out) - imports < 900e6


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's anonymous memory")
@pytest.mark.parametrize("dtype", [(), ("--dtype=float32",)], ids=["source's dtype", "float32"])
def test_a_3b_checkpoint_in_shards_of_1_gb(dtype, tmp_path):
    """Needs up to 26 GB below the temporary directory."""
    model = PRESETS["llama3.2-3b"]
    (tmp_path / "hf").mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**15, 2**24, np.uint16).view(BFLOAT16)

    def blocks(tensor):
        size = int(np.prod(tensor.shape))
        for start in range(0, size, len(noise)):
            yield noise[: min(len(noise), size - start)]

    planned = [safetensors.Planned(n, BFLOAT16, w.hf_shape) for n, (w, _) in families.tensors(model).items()]
    safetensors.write_directory(tmp_path / "hf", planned, blocks, 10**9)
    (tmp_path / "hf" / "config.json").write_text(json.dumps(families.to_config(model)))
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) >= 6
    into, out = both_ways(tmp_path, dtype)
    print(f"memory: 3B, {dtype or 'bfloat16'}: {into / GIB:.2f} GiB in, {out / GIB:.2f} GiB out")
    assert max(into, out) <= 2.5 * GIB
