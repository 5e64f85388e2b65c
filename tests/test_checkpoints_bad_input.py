"""What cannot be converted is refused in one line that names the file and the tensor, and nothing is written."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import hf_directories
import numpy as np
import pytest

from msm_jax.checkpoints import huggingface, imports, safetensors, store
from msm_jax.data import template_process

FULL = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A valid directory in shards, which tests copy and damage."""
    return hf_directories.write(tmp_path_factory.mktemp("whole") / "hf", hf_directories.model("qwen2"))


@pytest.fixture
def spoilt(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def refused(convert, tmp_path):
    """Converts and expects one line, exit status 2, and nothing new beside the source; returns the line."""

    def run(source, flag="--from_hf"):
        before = sorted(os.listdir(tmp_path))
        status, _, said = convert(f"{flag}={source}", f"--to_checkpoint={tmp_path / 'new'}")
        assert status == 2, said
        assert said.startswith("refused: ") and said.count("\n") == 1
        assert sorted(os.listdir(tmp_path)) == before
        return said

    return run


def edit(path, **fields):
    value = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def shard_of(directory, tensor):
    return directory / json.loads((directory / safetensors.INDEX_FILE).read_text())["weight_map"][tensor]


def test_a_missing_shard(spoilt, refused):
    gone = shard_of(spoilt, "model.layers.1.mlp.up_proj.weight")
    gone.unlink()
    said = refused(spoilt)
    placed = json.loads((spoilt / safetensors.INDEX_FILE).read_text())["weight_map"]
    held = [tensor for tensor, file in placed.items() if file == gone.name]
    assert f"{gone}: no such file" in said and held[0] in said


def test_a_shard_without_a_tensor_of_the_index(spoilt, refused):
    index = spoilt / safetensors.INDEX_FILE
    value = json.loads(index.read_text())
    last = max(value["weight_map"].values())
    value["weight_map"]["model.embed_tokens.weight"] = last
    index.write_text(json.dumps(value))
    assert f"{spoilt / last}: lacks tensor model.embed_tokens.weight" in refused(spoilt)


@pytest.mark.parametrize("keep", [0, 5, 200, -10])
def test_a_truncated_file(spoilt, refused, keep):
    file = shard_of(spoilt, "model.layers.1.mlp.up_proj.weight")
    os.truncate(file, keep if keep >= 0 else file.stat().st_size + keep)
    said = refused(spoilt)
    assert str(file) in said and "cut off" in said
    if keep < 0:
        assert "tensor model.layers" in said


def test_a_header_that_is_none(spoilt, refused):
    file = shard_of(spoilt, "model.embed_tokens.weight")
    content = bytearray(file.read_bytes())
    content[8:20] = b"x" * 12
    file.write_bytes(content)
    assert f"{file}: its header is not JSON" in refused(spoilt)


@pytest.mark.parametrize(
    ("field", "value", "tensor"),
    [
        ("intermediate_size", 40, "model.layers.0.mlp.gate_proj.weight"),
        ("num_key_value_heads", 2, "model.layers.0.self_attn.k_proj.weight"),
        ("vocab_size", 400, "model.embed_tokens.weight"),
        ("num_hidden_layers", 3, "model.layers.2.self_attn.q_proj.weight"),
        ("num_hidden_layers", 1, "model.layers.1."),
        ("tie_word_embeddings", False, "lm_head.weight"),
        ("model_type", "qwen3", "model.layers.0.self_attn.q_norm.weight"),
    ],
)
def test_a_config_that_contradicts_its_weights(spoilt, refused, field, value, tensor):
    fields = {field: value}
    if field == "model_type":
        fields["architectures"] = ["Qwen3ForCausalLM"]
    edit(spoilt / "config.json", **fields)
    said = refused(spoilt)
    assert tensor in said and str(spoilt) in said


def test_a_tensor_of_another_shape_names_its_file(spoilt, refused):
    file = shard_of(spoilt, "model.layers.0.self_attn.o_proj.weight")
    length = int.from_bytes(file.read_bytes()[:8], "little")
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + length])
    header["model.layers.0.self_attn.o_proj.weight"]["shape"] = [16, 64]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    said = refused(spoilt)
    assert f"{file}: tensor model.layers.0.self_attn.o_proj.weight is [16, 64], but config.json says [32, 32]" in said


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "Qwen2ForSequenceClassification"),
        ({"model_type": None, "architectures": None}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "original_max_position_embeddings|low_freq_factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, "factor"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": "4"}, "num_attention_heads"),
        ({"num_attention_heads": 0}, "num_heads"),
    ],
)
def test_a_model_that_is_not_ours(spoilt, refused, fields, word):
    edit(spoilt / "config.json", **fields)
    said = refused(spoilt)
    assert str(spoilt / "config.json") in said
    assert any(part in said for part in word.split("|")), said


def test_files_that_are_missing_or_no_json(spoilt, refused, tmp_path):
    assert "no such directory" in refused(tmp_path / "absent")
    (spoilt / "config.json").write_text("{")
    assert f"{spoilt / 'config.json'}: not valid JSON" in refused(spoilt)
    (spoilt / "config.json").unlink()
    assert f"{spoilt / 'config.json'}: no such file" in refused(spoilt)
    shutil.rmtree(spoilt)
    spoilt.mkdir()
    (spoilt / "config.json").write_text("{}")
    assert "config.json" in refused(spoilt)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I64"])
def test_a_dtype_that_is_not_read(spoilt, refused, dtype):
    file = shard_of(spoilt, "model.embed_tokens.weight")
    content = file.read_bytes()
    file.write_bytes(_renamed(content, dtype))
    assert f"{file}: tensor model.embed_tokens.weight has dtype {dtype}" in refused(spoilt)


def _renamed(content, dtype):
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b"BF16", dtype.encode(), 1)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def test_a_tokenizer_with_another_vocabulary(spoilt, refused):
    (spoilt / "tokenizer.json").write_text(_wider(spoilt))
    said = refused(spoilt)
    assert f"{spoilt / 'tokenizer.json'}: has id 5000, but tensor model.embed_tokens.weight has 300 rows" in said


def _wider(directory):
    value = json.loads((directory / "tokenizer.json").read_text())
    value["added_tokens"].append({"id": 5000, "content": "<|far|>", "special": True})
    return json.dumps(value)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_tokenizer_without_the_end_token_of_the_configuration(spoilt, refused, file):
    edit(spoilt / file, eos_token_id=[0, 299])
    ids = len(json.loads(hf_directories.tokenizer_json())["model"]["vocab"])
    assert f"{spoilt / 'tokenizer.json'}: has {ids} ids, but {file} names eos_token_id 299" in refused(spoilt)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("\n{% if %}", ":2: "),
        ("{{ raise_exception('no users') }}", ": no users; correct the template"),
        ("{{ ''.__class__.__mro__ }}", ": access to attribute '__class__' of 'str' object is unsafe"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", ": it runs longer than 0.2"),
    ],
)
@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_that_fails(spoilt, refused, monkeypatch, source, words, file):
    monkeypatch.setattr(template_process, "LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(template_process, "LIMIT_WAIT_SECONDS", 600.0)
    if file == "tokenizer_config.json":
        edit(spoilt / file, chat_template=source)
    else:
        (spoilt / file).write_text(source)
    assert f"{spoilt / file}{words}" in refused(spoilt)


def test_named_templates_without_a_default(spoilt, refused):
    named = [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}]
    edit(spoilt / "tokenizer_config.json", chat_template=named)
    said = refused(spoilt)
    assert f"{spoilt / 'tokenizer_config.json'}: none of its chat templates is named default" in said
    assert "(its names: rag, tool_use); save the one to use as chat_template.jinja" in said


def test_a_stored_output_matrix_of_a_tied_model(tmp_path, refused):
    """It is left out where it repeats the embedding, and a contradiction where it does not."""
    untied = hf_directories.model("llama")
    source = hf_directories.write(tmp_path / "hf", untied, shard_bytes=10**9)
    edit(source / "config.json", tie_word_embeddings=True)
    assert "lm_head.weight differs from the embedding" in refused(source)
    tensors = safetensors.read_directory(source)
    content = bytearray((source / FULL).read_bytes())
    embedding, head = (tensors[n] for n in ("model.embed_tokens.weight", "lm_head.weight"))
    content[head.offset : head.offset + head.nbytes] = content[embedding.offset : embedding.offset + embedding.nbytes]
    (source / FULL).write_bytes(content)
    imports.write(huggingface.Directory(source), tmp_path / "run")
    assert store.read_info(tmp_path / "run")["model"]["tie_embeddings"]


def write_gguf(path, architecture="llama", skip=(), rows=48, pre="gpt-2", templates=()):
    """A tiny GGUF of the Llama family with a byte-level tokenizer."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    spec = json.loads(hf_directories.tokenizer_json())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(spec["vocab"]))
    writer.add_token_types([3] * 3 + [1] * (len(spec["vocab"]) - 3))
    writer.add_token_merges([" ".join(pair) for pair in spec["merges"]])
    writer.add_eos_token_id(0)
    writer.add_chat_template([{"name": name, "template": "x"} for name in templates])
    shapes = {
        "token_embd": (len(spec["vocab"]), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (rows, 32), "blk.0.ffn_up": (48, 32), "blk.0.ffn_down": (32, 48),
    }  # fmt: skip
    for name, shape in shapes.items():
        if name not in skip:
            writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_comes_in_with_its_tokenizer(tmp_path):
    from msm_jax.checkpoints import gguf as reader

    source = reader.File(write_gguf(tmp_path / "tiny.gguf", templates=("rag", "default")))
    imports.write(source, tmp_path / "run")
    assets = store.read_assets(tmp_path / "run")
    made, given = (json.loads(each)["model"] for each in (assets["tokenizer.json"], hf_directories.tokenizer_json()))
    assert made["vocab"] == given["vocab"]
    assert made["merges"] == given["merges"]
    assert json.loads(assets["generation_config.json"]) == {"eos_token_id": 0}
    assert assets["chat_template.jinja"] == b"x"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ({"architecture": "gemma3"}, "architecture 'gemma3'"),
        ({"skip": ("blk.0.ffn_up",)}, "lacks tensor blk.0.ffn_up.weight (model.layers.0.mlp.up_proj.weight"),
        ({"rows": 40}, "tensor blk.0.ffn_gate.weight is [40, 32]"),
        ({"pre": "other"}, "tokenizer.ggml.pre 'other' is not supported"),
        ({"templates": ("rag", "tool_use")}, "none of its chat templates is named default (its names: rag, tool_use)"),
    ],
)
def test_a_gguf_that_is_not_ours(make, words, tmp_path, refused):
    path = write_gguf(tmp_path / "tiny.gguf", **make)
    said = refused(path, "--from_gguf")
    assert str(path) in said and words in said


@pytest.mark.parametrize("keep", [0.0, 0.002, 0.05, 0.5, 0.999])
def test_a_truncated_gguf(keep, tmp_path, refused):
    path = write_gguf(tmp_path / "tiny.gguf")
    os.truncate(path, int(path.stat().st_size * keep))
    said = refused(path, "--from_gguf")
    assert str(path) in said
    assert "cut off" in said or "not a GGUF" in said


def test_no_gguf_at_all(tmp_path, refused):
    (tmp_path / "x.gguf").write_bytes(struct.pack("<4sI", b"GGML", 3))
    assert "is not a GGUF file" in refused(tmp_path / "x.gguf", "--from_gguf")
    assert "cannot be read" in refused(tmp_path / "absent.gguf", "--from_gguf")


def test_a_damaged_checkpoint_is_one_line_of_the_command_too(tmp_path, whole):
    """Orbax reads the arrays at once: what becomes of the others when one fails differs from run to run."""
    imports.write(huggingface.Directory(whole), tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "0" / "params" / "d").iterdir():
        os.truncate(file, 100)
    command = [sys.executable, "-m", "msm_jax.convert", f"--from_checkpoint={tmp_path / 'run'}"]
    for _ in range(4):
        done = subprocess.run([*command, f"--to_hf={tmp_path / 'out'}"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "damaged" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_checkpoint_that_is_none_or_damaged(tmp_path, convert, whole):
    status, _, said = convert(f"--from_checkpoint={tmp_path / 'x'}", f"--to_hf={tmp_path / 'out'}")
    assert status == 2 and "no such checkpoint" in said
    imports.write(huggingface.Directory(whole), tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "0" / "params" / "d").iterdir():
        os.truncate(file, 100)
    status, _, said = convert(f"--from_checkpoint={tmp_path / 'run'}", f"--to_hf={tmp_path / 'out'}")
    assert status == 2 and "damaged" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert [path.name for path in Path(tmp_path).iterdir()] == ["run"]
