"""Checkpoints of transformers come in, compute the same, and go out as they came."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from test_sampling_decode import plain_logits

from msm_jax.checkpoints import exports, huggingface, imports, safetensors, store
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig, make_mesh

SCRIPT = Path(__file__).parent / "parity_weights.py"
TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES = {
    "llama": {"family": "Llama", "tie_word_embeddings": False},
    "llama_tied": {"family": "Llama", "tie_word_embeddings": True, "head_dim": 16, "rms_norm_eps": 1e-5},
    "llama3.1": {
        "family": "Llama", "head_dim": 16, "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}
    },
    "qwen2": {
        "family": "Qwen2", "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}
    },
    "qwen2_yarn": {"family": "Qwen2", "hidden_size": 64, "rope_parameters": YARN},
    "qwen3": {"family": "Qwen3", "head_dim": 16},
}
LONG = {
    "llama_old_config": {"family": "Llama", "old_rope": True},
    "llama3.1_old_config": {**FAMILIES["llama3.1"], "old_rope": True},
    "qwen2_yarn_old_config": {**FAMILIES["qwen2_yarn"], "old_rope": True},
    "qwen2_tied": {"family": "Qwen2", "tie_word_embeddings": True},
    "qwen3_yarn": {
        "family": "Qwen3", "head_dim": 32, "rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 8}
    },
    "qwen3_tied": {"family": "Qwen3", "head_dim": 16, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama_deep": {"family": "Llama", "num_hidden_layers": 6, "hidden_size": 96, "num_attention_heads": 6},
    "qwen3_wide": {"family": "Qwen3", "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 512},
}  # fmt: skip


def reference(python, command, directory, *more):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    arguments = [python, str(SCRIPT), command, str(directory), *map(str, more)]
    subprocess.run(arguments, check=True, env=environment, stdout=subprocess.DEVNULL)


def load_checkpoint(path, mesh=MeshConfig()):  # noqa: B008  # frozen, so it can be shared
    config = ModelConfig.from_json(store.read_info(path)["model"])
    return config, store.load(path, {"params": placed(config, mesh)})["params"]


def placed(config, mesh):
    abstract = transformer.abstract_params(config)
    shardings = sharding.tree_shardings(make_mesh(mesh), transformer.logical_axes(abstract), abstract)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def assert_same_tensors(a, b):
    """How many tensors two directories have, all of them equal bit for bit."""
    first, second = (safetensors.read_directory(each) for each in (a, b))
    assert first.keys() == second.keys()
    reader, everything = safetensors.Reader(), slice(None)
    for name, tensor in first.items():
        assert (tensor.dtype, tensor.shape) == (second[name].dtype, second[name].shape)
        blocks = [reader.block(each, everything, everything).tobytes() for each in (tensor, second[name])]
        assert blocks[0] == blocks[1], name
    return len(first)


@pytest.fixture(scope="session")
def theirs(ref_python, tmp_path_factory, request):
    """The directory of the random checkpoints that this session compares, each with the logits of transformers."""
    directory = tmp_path_factory.mktemp("theirs")
    asked = {item.callspec.params["name"] for item in request.session.items if "theirs" in item.fixturenames}
    for name in asked:
        (directory / name).mkdir()
        (directory / name / "config.json").write_text(json.dumps({**TINY, **(FAMILIES | LONG)[name]}))
    tokens = np.random.default_rng(0).integers(0, TINY["vocab_size"], (2, 200), dtype=np.int32)
    np.save(directory / "tokens.npy", tokens)
    reference(ref_python, "make", directory)
    return directory


@pytest.mark.parity
@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_logits_and_round_trip(name, theirs, tmp_path):
    source = theirs / name / "hf"
    imports.write(huggingface.Directory(source), tmp_path / "run")
    config, params = load_checkpoint(tmp_path / "run")
    # Every weight is away from its initial value, so that none can be left out unnoticed.
    assert all(np.std(np.asarray(leaf)) > 0.05 for leaf in jax.tree.leaves(params))
    ours = np.stack([plain_logits(params, config, row.tolist()) for row in np.load(theirs / "tokens.npy")])
    logits = np.load(theirs / name / "logits.npy")
    worst = np.abs(ours - logits).max()
    print(f"parity: {name}: largest difference of logits {worst:.1e}, largest logit {np.abs(logits).max():.1f}")
    assert worst <= 1e-4
    if config.rope_scaling:
        plain = plain_logits(params, dataclasses.replace(config, rope_scaling=None), np.load(theirs / "tokens.npy")[0])
        assert np.abs(plain - logits[0]).max() > 1e-2, "the scaling has no effect that the comparison could see"

    exports.write(tmp_path / "run", tmp_path / "out", shard_bytes=60_000)
    assert_same_tensors(source, tmp_path / "out")
    for file in ("config.json", "generation_config.json"):
        assert (source / file).read_bytes() == (tmp_path / "out" / file).read_bytes()

    _, cut = load_checkpoint(tmp_path / "run", MeshConfig(fsdp=4))
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
