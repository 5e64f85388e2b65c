"""Our logits equal those of transformers on torch, with the same weights, all of them away from their defaults."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_sampling_decode import model, plain_logits

from benchmarks import reference

SCRIPT = Path(__file__).parent / "parity_logits.py"
FAMILIES = {
    "llama": {"num_kv_heads": 2, "rope_theta": 5e5, "tie_embeddings": False},
    "llama_tied": {"rms_norm_eps": 1e-5, "head_dim": 16},
    "qwen2": {"qkv_bias": True, "num_kv_heads": 1},
    "qwen3": {"qk_norm": True, "head_dim": 16, "num_kv_heads": 2},
}


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family, ref_python, tmp_path):
    config, params = model(97, **FAMILIES[family])
    settings = reference.settings(config)
    assert settings["family"] == family.split("_")[0]
    np.savez(tmp_path / "weights.npz", **reference.weights(params, config))
    tokens = np.random.default_rng(0).integers(0, 97, (2, 60), dtype=np.int32)
    np.save(tmp_path / "tokens.npy", tokens)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    path = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent / "benchmarks")}
    subprocess.run([ref_python, str(SCRIPT), str(tmp_path)], check=True, env=path)
    theirs = np.load(tmp_path / "logits.npy")
    for row in range(2):
        np.testing.assert_allclose(plain_logits(params, config, tokens[row].tolist()), theirs[row], atol=1e-4)
