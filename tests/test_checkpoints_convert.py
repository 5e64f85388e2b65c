"""Conversion between Hugging Face directories and checkpoints: bits, files, memory; whole or not at all."""

import json
import os
from pathlib import Path

import hf_directories
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_directories import BFLOAT16
from test_parity_weights import assert_same_tensors, load_checkpoint

from msm_jax.checkpoints import exports, huggingface, imports, manifest, safetensors, slices, store
from msm_jax.foundation import hashing
from msm_jax.models import families, transformer
from msm_jax.models.config import RUN_SETTINGS, RopeScaling
from msm_jax.parallel.mesh import MeshConfig

TRAINED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|assistant|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def files_of(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".safetensors" and p.name != "README.md"}


def same_weights(source, params):
    """Every parameter has the values of the source's tensors."""
    for weight in families.weights(source.model):
        leaf = params[weight.path[0]] if len(weight.path) == 1 else params["layers"][weight.path[1]]
        for layer in range(max(weight.layers, 1)):
            ours = leaf[layer] if weight.layers else leaf
            whole = tuple(slice(0, n) for n in weight.shape)
            np.testing.assert_array_equal(source.read(weight, layer, whole), np.asarray(ours))


@pytest.mark.parametrize("family", hf_directories.SHAPES)
@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype(np.float32), np.dtype(np.float16)], ids=str)
def test_round_trip_is_bit_for_bit(family, dtype, tmp_path):
    source = hf_directories.write(tmp_path / "hf", hf_directories.model(family), dtype)
    imports.write(huggingface.Directory(source), tmp_path / "run")
    exports.write(tmp_path / "run", tmp_path / "out", shard_bytes=30_000)
    assert_same_tensors(source, tmp_path / "out")
    before, after = files_of(source), files_of(tmp_path / "out")
    # The template comes out as a file of its own too, and the index names other shards.
    assert after.pop("chat_template.jinja").decode() == hf_directories.TEMPLATE
    assert {name for name in before if before[name] != after[name]} <= {"model.safetensors.index.json"}
    assert before.keys() == after.keys()


def test_a_checkpoint_of_slices_is_one_like_any_other(tmp_path):
    config = hf_directories.model("qwen3")
    source = huggingface.Directory(hf_directories.write(tmp_path / "hf", config))
    imports.write(source, tmp_path / "run")
    loaded, params = load_checkpoint(tmp_path / "run", MeshConfig(fsdp=2, tensor=2))
    assert loaded == source.model
    assert loaded.compute_dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    same_weights(source, params)
    assert store.resolve(tmp_path / "run").name == "0"
    assets = store.read_assets(tmp_path / "run")
    assert json.loads(assets["hf_config.json"])["model_type"] == "qwen3"
    assert assets["chat_template.jinja"].decode() == hf_directories.TEMPLATE
    lineage = manifest.read(tmp_path / "run")
    assert {Path(name).suffix for name in lineage.data} == {".safetensors"}
    assert lineage.data[str(source.files[0])] == hashing.file_sha256(source.files[0])


def test_a_trained_checkpoint_is_exported_with_its_own_template(tmp_path):
    """A checkpoint of a phase (float32) is exported in the requested dtype, with a card of its lineage."""
    config = hf_directories.model("qwen2", rope_scaling=RopeScaling("yarn", 4.0, 64))
    imports.write(huggingface.Directory(hf_directories.write(tmp_path / "hf", config)), tmp_path / "run")
    loaded, params = load_checkpoint(tmp_path / "run")
    params = jax.tree.map(lambda x: x + 0.25, params)
    assets = store.read_assets(tmp_path / "run") | {"chat_template.jinja": TRAINED.encode()}
    info = store.read_info(tmp_path / "run")
    writer = store.Writer(tmp_path / "next")
    writer.save(7, {"params": params, "opt_state": {"m": params}, "step": jnp.int32(7)}, info, assets)
    writer.wait()
    parent = manifest.parent_of(store.resolve(tmp_path / "run"))
    manifest.write(tmp_path / "next", manifest.Manifest("sft", parent, {}, "", "", "", {}, {}, 5, "cpu", 1))
    exports.write(tmp_path / "next", tmp_path / "out", BFLOAT16)
    again = huggingface.Directory(tmp_path / "out")
    assert again.model == loaded
    same_weights(again, jax.tree.map(lambda x: x.astype(BFLOAT16), params))
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == TRAINED
    beside = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert beside["chat_template"] == TRAINED
    assert beside["eos_token"] == "<|end|>"
    # The new template ends a turn with another special than the source did.
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [0, 1, 2]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "step 7 of phase `sft`" in card
    assert parent.manifest_sha256[:32] in card
    assert "model-00001-of" in card
    assert str(tmp_path) not in card, "a card names no directory of this machine"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("compute_dtype", "float32"), ("remat", "full"), ("scan_layers", False), ("attention", "reference")],
)
def test_how_a_model_is_computed_leaves_its_config_verbatim(setting, value, tmp_path):
    source = hf_directories.write(tmp_path / "hf", hf_directories.model("qwen3"))
    imports.write(huggingface.Directory(source), tmp_path / "run")
    loaded, params = load_checkpoint(tmp_path / "run")
    assert getattr(loaded, setting) != value and setting in RUN_SETTINGS
    info = store.read_info(tmp_path / "run")
    info["model"][setting] = value
    path = tmp_path / "next" / "checkpoints" / "1"
    store.save(path, {"params": params, "step": jnp.int32(1)}, info, store.read_assets(tmp_path / "run"))
    exports.write(path, tmp_path / "out", BFLOAT16)
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_dtype_is_that_of_the_flag(convert, tmp_path):
    source = hf_directories.write(tmp_path / "hf", hf_directories.model(), np.dtype(np.float32))
    status, _, err = convert(f"--from_hf={source}", f"--to_checkpoint={tmp_path / 'run'}", "--dtype=bfloat16")
    assert status == 0, err
    reader = slices.Reader(tmp_path / "run")
    assert {dtype for _, dtype in reader.leaves.values()} == {BFLOAT16}
    assert store.read_info(tmp_path / "run")["model"]["compute_dtype"] == "bfloat16"
    status, _, err = convert(f"--from_checkpoint={tmp_path / 'run'}", f"--to_hf={tmp_path / 'out'}")
    assert status == 0, err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"


def test_a_directory_without_a_tokenizer_converts_and_says_so(convert, tmp_path):
    source = hf_directories.write(tmp_path / "hf", hf_directories.model(), tokenizer=False)
    status, out, err = convert(f"--from_hf={source}", f"--to_checkpoint={tmp_path / 'run'}")
    assert status == 0, err
    assert "the checkpoint has no tokenizer" in out


def test_pieces_follow_the_slices(tmp_path, monkeypatch):
    """Small limits, so that parameters are cut along both axes, unevenly too."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 5000)
    monkeypatch.setattr(slices, "_IN_FLIGHT_BYTES", 9000)
    monkeypatch.setattr(slices, "pieces", lambda shape, dtype, axis, parts: tuple(
        -(-n // 3) if i == axis else n for i, n in enumerate(shape)
    ))  # fmt: skip
    monkeypatch.setattr(exports, "_BLOCK_BYTES", 700)
    source = hf_directories.write(tmp_path / "hf", hf_directories.model("llama"), np.dtype(np.float32))
    imports.write(huggingface.Directory(source), tmp_path / "run")
    exports.write(tmp_path / "run", tmp_path / "out", shard_bytes=30_000)
    assert_same_tensors(source, tmp_path / "out")


def test_import_reads_every_byte_once(tmp_path, monkeypatch):
    """Small limits, so that tensors are read in several blocks of rows and columns."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 5000)
    source = hf_directories.write(tmp_path / "hf", hf_directories.model("qwen3"))
    read = {}
    block = safetensors.Reader.block

    def counted(reader, tensor, rows, columns):
        shape = tensor.shape if len(tensor.shape) == 2 else (1, *tensor.shape)
        read.setdefault(tensor.name, np.zeros(shape, int))[rows, columns] += 1
        return block(reader, tensor, rows, columns)

    monkeypatch.setattr(safetensors.Reader, "block", counted)
    imports.write(huggingface.Directory(source), tmp_path / "run")
    assert read.keys() == safetensors.read_directory(source).keys()
    assert all((times == 1).all() for times in read.values())


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_full_disk_leaves_nothing_under_the_name(direction, convert, tmp_path):
    config = hf_directories.model(vocab_size=3000)
    source = hf_directories.write(tmp_path / "hf", config, np.dtype(np.float32), shard_bytes=10**9)
    if direction == "in":
        flags = (f"--from_hf={source}", f"--to_checkpoint={tmp_path / 'new'}")
    else:
        imports.write(huggingface.Directory(source), tmp_path / "run")
        flags = (f"--from_checkpoint={tmp_path / 'run'}", f"--to_hf={tmp_path / 'new'}")
    before = sorted(os.listdir(tmp_path))
    status, _, err = convert(*flags, limit=200_000)
    assert status == 1, err
    assert err.lower().count("file too large") == 1
    assert len(err.strip().splitlines()) == 1
    assert str(tmp_path / "new") in err
    assert ".tmp" not in err
    assert sorted(os.listdir(tmp_path)) == before


def test_what_is_there_is_left_alone(convert, tmp_path):
    source = hf_directories.write(tmp_path / "hf", hf_directories.model())
    for flags in ((f"--from_hf={source}", f"--to_checkpoint={source}"), ("--from_checkpoint=x", f"--to_hf={source}")):
        status, _, err = convert(*flags)
        assert status == 2
        assert "not empty" in err
    (tmp_path / "empty").mkdir()
    imports.write(huggingface.Directory(source), tmp_path / "empty")
    assert store.latest(tmp_path / "empty")


@pytest.mark.parametrize("flags", [(), ("--from_hf=a",), ("--from_hf=a", "--from_gguf=b", "--to_checkpoint=c")])
def test_flags_that_say_no_conversion_are_refused(flags, convert):
    status, _, err = convert(*flags)
    assert status == 2
    assert "--to_checkpoint" in err


def test_a_model_from_scratch_has_an_architecture_of_transformers(tiny_tokenizer, tmp_path):
    config = hf_directories.model("qwen3", vocab_size=tiny_tokenizer.vocab_size)
    params = transformer.init_params(config, jax.random.key(0))
    info = {"model": vars(config), "step": 3, "phase": "pretrain"}
    tree = {"params": params, "step": jnp.int32(3)}
    store.save(tmp_path / "run" / "checkpoints" / "3", tree, info, tiny_tokenizer.files())
    exports.write(tmp_path / "run", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == ["Qwen3ForCausalLM"]
    assert written["bos_token_id"] == tiny_tokenizer.bos_id
    again = huggingface.Directory(tmp_path / "out")
    assert again.model == config
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == tiny_tokenizer.files()["tokenizer.model"]
