"""Import and export of PEFT directories, merging, and refused adapters; results are written whole or not at all."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_sampling_decode import model

from msm_jax.checkpoints import adapters, compose, exchange, manifest, peft, store
from msm_jax.checkpoints.adapters import Base, Stack, StackedAdapter
from msm_jax.checkpoints.digest import digest, of_checkpoint
from msm_jax.data.templates import DEFAULT_TEMPLATE
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing
from msm_jax.models import lora
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.sampling.engine import Engine

ROOT = Path(__file__).parent.parent
LORA = LoraConfig(3, 6.0, ("query", "attention_out", "gate"), 0.1)
MESH = make_mesh(MeshConfig())


def drawn(config, shape, seed=0):
    """Numpy weights of an adapter, none of them zero."""
    rng = np.random.default_rng(seed)
    abstract = lora.abstract_weights(config, shape)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), abstract)


def save_base(path, shape, params, assets):
    info = {"model": dataclasses.asdict(shape), "step": 0, "totals": {}, "tokenizer_sha256": "", "template_sha256": ""}
    store.save(path / "checkpoints" / "0", {"params": params}, info, assets)
    return path / "checkpoints" / "0"


@pytest.fixture(scope="module")
def made(tiny_tokenizer, tmp_path_factory):
    """A base `run`, and a PEFT directory `theirs` with an adapter for it."""
    root = tmp_path_factory.mktemp("made")
    shape, params = model(tiny_tokenizer.vocab_size, num_kv_heads=2)
    assets = {**tiny_tokenizer.files(), "chat_template.jinja": DEFAULT_TEMPLATE.encode()}
    save_base(root / "run", shape, params, assets)
    (root / "theirs").mkdir()
    peft.write(root / "theirs", LORA, drawn(LORA, shape), "somewhere/base", {})
    return root, shape, params


def changed(made, tmp_path, settings=None, tensors=None):
    """The PEFT directory with some settings and tensors replaced; None removes one."""
    root, *_ = made
    directory = tmp_path / "changed"
    directory.mkdir()
    known = json.loads((root / "theirs" / peft.CONFIG_FILE).read_text()) | (settings or {})
    (directory / peft.CONFIG_FILE).write_text(json.dumps(known))
    held = load_file(root / "theirs" / peft.WEIGHTS_FILE) | (tensors or {})
    save_file({name: value for name, value in held.items() if value is not None}, directory / peft.WEIGHTS_FILE)
    return directory


def score(*args, **options):
    return Engine.from_checkpoint(*args, **options).score([[1, 5, 9], [1, 70]], [[30, 31, 32], [8]])


def convert(*flags, limit=None):
    def bound():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "msm_jax.convert", *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=bound, env=os.environ)


def test_in_and_out_again_is_bit_for_bit(made, tmp_path):
    root, _, _ = made
    checkpoint = exchange.import_peft(root / "theirs", root / "run", tmp_path / "run")
    exchange.export_peft(checkpoint, tmp_path / "out")
    before, after = (load_file(path / peft.WEIGHTS_FILE) for path in (root / "theirs", tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    settings = [json.loads((path / peft.CONFIG_FILE).read_text()) for path in (root / "theirs", tmp_path / "out")]
    assert settings[0] | {"base_model_name_or_path": "run"} == settings[1]
    assert settings[1]["target_modules"] == ["q_proj", "o_proj", "gate_proj"]
    # The chat template that was trained lies beside the adapter.
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == DEFAULT_TEMPLATE
    assert manifest.read(tmp_path / "run").parent.run == str(root / "run")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "for `run`, in float32: rank 3, alpha 6, on query, attention_out, gate." in card
    assert hashing.file_sha256(tmp_path / "run" / "manifest.json")[:32] in card and str(tmp_path) not in card


def merged_params(found, mesh):
    """Float32 parameters of one model that computes what base and adapters do together, added on the devices."""
    weights = compose.load_adapters(found, mesh)
    base = adapters.load_base(found.stack, found.model, mesh, found.checkpoint)
    return adapters.merge_all(base, found.stack, weights)


def test_sampled_imported_and_merged_are_one_model(made, tmp_path):
    root, shape, _ = made
    given = score(root / "run", adapter=root / "theirs")
    assert np.abs(given - score(root / "run")).max() > 1e-2
    checkpoint = exchange.import_peft(root / "theirs", root / "run", tmp_path / "run")
    np.testing.assert_array_equal(score(checkpoint), given)
    merged = exchange.merge(checkpoint, tmp_path / "merged")
    np.testing.assert_allclose(score(merged), given, atol=1e-4)
    found = compose.find(checkpoint)
    whole = merged_params(found, MESH)
    target = adapters.frozen_target(shape, MESH, "float32")
    for one, two in zip(
        jax.tree.leaves(whole), jax.tree.leaves(store.load(merged, {"params": target})["params"]), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_a_stack_is_exported_as_one_adapter_and_merged_block_by_block(made, tmp_path):
    root, shape, params = made
    layers = (
        StackedAdapter(LoraConfig(2, 1.0), True),
        StackedAdapter(LoraConfig(1, 4.0, ("query", "down"))),
        StackedAdapter(LORA),
    )
    weights = [drawn(layer.config, shape, seed) for seed, layer in enumerate(layers)]
    base = root / "run" / "checkpoints" / "0"
    path = tmp_path / "stack" / "checkpoints" / "0"
    stack = Stack(Base(base, digest(params), "bfloat16"), layers)
    info = store.read_info(base) | adapters.to_info(stack, path)
    store.save(path, adapters.tree(weights[-1], weights[:-1]), info, store.read_assets(base))
    # Merging by blocks gives the bits that merging on the devices does.
    whole = merged_params(compose.find(path), MESH)
    merged = exchange.merge(path, tmp_path / "merged", np.dtype(np.float32))
    there = store.load(merged, {"params": adapters.frozen_target(shape, MESH, "float32")})["params"]
    for name, leaf in whole["layers"].items():
        np.testing.assert_allclose(leaf, there["layers"][name], atol=2e-6, err_msg=name)
    exchange.export_peft(path, tmp_path / "out")
    config, joined = peft.read(tmp_path / "out", shape)
    assert (config.rank, config.scale) == (6, 1.0)
    again = params
    for layer, each in zip(layers, weights, strict=True):
        again = lora.merge(again, lora.Adapter(each, layer.config))
    once = lora.merge(params, lora.Adapter(joined, config))
    for name in lora.targets():
        np.testing.assert_allclose(again["layers"][name], once["layers"][name], atol=1e-5)


def test_a_template_beside_the_adapter_goes_before_the_bases(made, tmp_path, caplog):
    root, _, _ = made
    directory = changed(made, tmp_path)
    own = DEFAULT_TEMPLATE.replace("<|end|>", "<|end|>\n")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": own}))
    engine = Engine.from_checkpoint(root / "run", adapter=directory)
    assert engine.template.source == own
    assert "chat template of its own" in caplog.text
    checkpoint = exchange.import_peft(directory, root / "run", tmp_path / "run")
    assert Engine.from_checkpoint(checkpoint).template.source == own
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ raise_exception('no users') }}"}))
    with pytest.raises(InputError, match=r"tokenizer_config\.json: no users; correct"):
        exchange.import_peft(directory, root / "run", tmp_path / "not")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"lora_alpha": 7.5}, {"target_modules": "all-linear"}, {"rank_pattern": None}]
)
def test_settings_that_are_read(made, tmp_path, settings):
    _, shape, _ = made
    config, _ = peft.read(changed(made, tmp_path, settings), shape)
    alpha = settings.get("lora_alpha", 6.0)
    assert config.scale == pytest.approx(alpha / 3**0.5 if settings.get("use_rslora") else alpha / 3)
    assert config.targets == LORA.targets


def test_layers_that_are_left_out_are_zero(made, tmp_path):
    _, shape, _ = made
    gone = {
        name: None for name in load_file(made[0] / "theirs" / peft.WEIGHTS_FILE) if ".layers.0." in name
    }
    _, weights = peft.read(changed(made, tmp_path, {"layers_to_transform": [1]}, gone), shape)
    assert not weights["layers"]["query"]["a"][0].any()
    assert weights["layers"]["query"]["a"][1].all()


Q_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"use_dora": True}, {}, r"adapter_config.json: use_dora is True"),
        ({"rank_pattern": {"q_proj": 8}}, {}, r"adapter_config.json: rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, {}, r"adapter_config.json: alpha_pattern"),
        ({"peft_type": "IA3"}, {}, r"adapter_config.json: peft_type is 'IA3'"),
        ({"bias": "all"}, {}, r"adapter_config.json: bias"),
        ({"modules_to_save": ["lm_head"]}, {}, r"adapter_config.json: modules_to_save"),
        ({"init_lora_weights": "pissa"}, {}, r"adapter_config.json: init_lora_weights"),
        ({"r": 0}, {}, r"adapter_config.json: r is 0"),
        ({"r": 4}, {}, r"safetensors: tensor .*lora_A.weight is \(3, 32\), but the base needs \(4, 32\)"),
        ({}, {Q_A: None}, rf"safetensors: tensor {Q_A} is missing"),
        ({}, {Q_A: np.zeros((3, 64), np.float32)}, rf"safetensors: tensor {Q_A} is \(3, 64\)"),
        ({}, {Q_A.replace("layers.1", "layers.2"): np.zeros((3, 32), np.float32)}, r"layers\.2.* belongs to no layer"),
        ({}, {"base_model.model.lm_head.lora_A.weight": np.zeros((3, 32), np.float32)}, r"tensor .*lm_head"),
        ({}, {Q_A: np.full((3, 32), np.nan, np.float32)}, rf"safetensors: tensor {Q_A} is not finite"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(made, tmp_path, settings, tensors, message):
    root, *_ = made
    directory = changed(made, tmp_path, settings, tensors)
    with pytest.raises(InputError, match=message) as error:
        exchange.import_peft(directory, root / "run", tmp_path / "run")
    assert "\n" not in str(error.value)
    assert str(directory) in str(error.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=message):
        Engine.from_checkpoint(root / "run", adapter=directory)


def test_damaged_files_are_refused(made, tmp_path):
    root, shape, _ = made
    directory = changed(made, tmp_path)
    file = directory / peft.WEIGHTS_FILE
    whole = file.read_bytes()
    for size in (0, 7, 100, len(whole) - 4):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match=rf"{peft.WEIGHTS_FILE}: is damaged or cut off"):
            peft.read(directory, shape)
    file.unlink()
    with pytest.raises(InputError, match=rf"{peft.WEIGHTS_FILE}: no such file"):
        peft.read(directory, shape)
    (directory / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"adapter_model.bin: is a pickle"):
        peft.read(directory, shape)
    (directory / peft.CONFIG_FILE).write_text("{")
    with pytest.raises(InputError, match=rf"{peft.CONFIG_FILE}: "):
        peft.read(directory, shape)
    with pytest.raises(InputError, match=r"holds no adapter_config.json"):
        exchange.import_peft(root / "run", root / "run", tmp_path / "run")


def test_a_digest_by_blocks_is_that_of_the_whole(made, monkeypatch):
    root, _, params = made
    assert of_checkpoint(root / "run") == digest(params)
    monkeypatch.setattr("msm_jax.checkpoints.slices.SLICE_BYTES", 1000)
    assert of_checkpoint(root / "run") == digest(params)


def test_another_base_is_refused_by_merge(made, tmp_path):
    root, shape, params = made
    checkpoint = exchange.import_peft(root / "theirs", root / "run", tmp_path / "run")
    info = store.read_info(checkpoint)
    other = save_base(tmp_path / "other", shape, {**params, "final_norm": params["final_norm"] + 1}, {})
    info["base"] |= {"path": str(other), "relative": "nowhere"}
    moved = tmp_path / "moved" / "checkpoints" / "0"
    store.save(moved, {"adapter": drawn(LORA, shape)}, info, store.read_assets(checkpoint))
    with pytest.raises(InputError, match=r"not trained on the base .*: tensor final_norm differs"):
        exchange.merge(moved, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(InputError, match="holds no adapter"):
        exchange.merge(root / "run", tmp_path / "merged")
    with pytest.raises(InputError, match="holds no adapter"):
        exchange.export_peft(root / "run", tmp_path / "out")


@pytest.mark.slow
def test_the_commands(made, tmp_path):
    root, _, _ = made
    done = convert(f"--from_peft={root}/theirs", f"--base={root}/run", f"--to_checkpoint={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert convert(f"--from_checkpoint={tmp_path}/run", f"--to_peft={tmp_path}/out").returncode == 0
    assert peft.is_directory(tmp_path / "out")
    refused = convert(f"--from_checkpoint={tmp_path}/run", f"--to_peft={tmp_path}/out")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    full = convert(
        f"--from_checkpoint={tmp_path}/run", "--merge", f"--to_checkpoint={tmp_path}/merged", limit=20_000
    )
    assert (full.returncode, full.stderr.count("\n")) == (1, 1), full.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert convert(f"--from_checkpoint={tmp_path}/run", "--to_checkpoint=x").returncode == 2


def test_a_full_disk_leaves_nothing(made, tmp_path, monkeypatch):
    root, _, _ = made

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    checkpoint = exchange.import_peft(root / "theirs", root / "run", tmp_path / "run")
    monkeypatch.setattr(peft.safetensors_numpy, "save_file", full)
    with pytest.raises(WorkError, match="No space left"):
        exchange.export_peft(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
