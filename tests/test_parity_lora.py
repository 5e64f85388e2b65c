"""Adapters compute in peft what they compute here, both ways and merged, and a step moves weights as torch's does."""

import dataclasses
import functools
import itertools
import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import AS_USERS_COMPILE
from safetensors.numpy import load_file
from test_parity_smollm2 import TEXTS
from test_parity_weights import load_checkpoint
from test_sampling_decode import model
from test_training_step import make_batch

from benchmarks import reference
from msm_jax.checkpoints import adapters, compose, exchange, exports, gguf, imports, peft, store
from msm_jax.checkpoints.adapters import Base, Stack, StackedAdapter
from msm_jax.checkpoints.digest import digest
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.models import lora, transformer
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import optimizer, state, step
from msm_jax.training.config import OptimizerConfig
from tools import smollm2

SCRIPT = Path(__file__).parent / "parity_lora.py"
FAMILIES = {
    "llama": {"num_kv_heads": 2, "tie_embeddings": False},
    "qwen2": {"qkv_bias": True, "num_kv_heads": 1, "head_dim": 16},
}
# What peft makes, in the ways in which public adapters say where they lie.
THEIRS = {
    "list": {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_dropout": 0.1},
    "pattern": {"r": 4, "lora_alpha": 2, "target_modules": r".*\.(self_attn\.(k|o)_proj|mlp\.(gate|up)_proj)"},
    "rslora_everywhere": {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": "all-linear"},
    "one_layer": {"r": 2, "lora_alpha": 4, "target_modules": ["up_proj"], "layers_to_transform": [1]},
}
# What we make: the adapters of a checkpoint, bottom first, and which of them are merged into the base.
OURS = {
    "single": [(LoraConfig(3, 6.0), False)],
    "stacked": [(LoraConfig(2, 3.0, ("query", "up")), False), (LoraConfig(4, 2.0), False)],
    "on_merged": [(LoraConfig(2, 3.0), True), (LoraConfig(1, 1.0, ("value", "down")), False)],
}
MESH = make_mesh(MeshConfig())


def run_reference(python, command, directory):
    benchmarks = str(SCRIPT.parent.parent / "benchmarks")
    environment = {**os.environ, "PYTHONPATH": benchmarks, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    subprocess.run([python, str(SCRIPT), command, str(directory)], check=True, env=environment)


def save_base(directory, config, params):
    """The checkpoint RUN of a model without tokenizer, and its export HF."""
    info = {"model": dataclasses.asdict(config), "step": 0, "totals": {}}
    store.save(directory / "run" / "checkpoints" / "0", {"params": params}, info, {})
    exports.write(directory / "run", directory / "hf")


def drawn(config, model, seed):
    """Weights of an adapter, none of them zero."""
    weights = lora.init_weights(config, model, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def save_adapters(path, base, config, params, layers):
    weights = [drawn(each, config, seed) for seed, (each, _) in enumerate(layers)]
    stack = Stack(Base(base, digest(params), "float32"), tuple(StackedAdapter(*each) for each in layers))
    info = {"model": dataclasses.asdict(config), "step": 0, "totals": {}, **adapters.to_info(stack, path)}
    store.save(path, {**adapters.tree(weights[-1], weights[:-1])}, info, {})


@functools.partial(jax.jit, static_argnums=1, compiler_options=AS_USERS_COMPILE)
def forward(params, config, tokens, active):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = transformer.apply(params, config, tokens, positions, jnp.ones_like(tokens), active)
    return transformer.logits(params, config, hidden)


def logits(found, tokens):
    params, beside = compose.load(found, MESH)
    active = lora.activate(beside, found.model) if beside else None
    return np.asarray(forward(params, found.model, tokens, active))


@pytest.fixture(scope="module")
def exchanged(ref_python, tmp_path_factory):
    """Bases, adapters of both kinds, and peft's logits of all of them."""
    root = tmp_path_factory.mktemp("exchanged")
    np.save(root / "tokens.npy", np.random.default_rng(0).integers(0, 97, (2, 40), dtype=np.int32))
    (root / "adapters.json").write_text(json.dumps(THEIRS))
    for family, fields in FAMILIES.items():
        config, params = model(97, **fields)
        save_base(root / family, config, params)
        for name, layers in OURS.items():
            path = root / family / name / "checkpoints" / "0"
            save_adapters(path, root / family / "run" / "checkpoints" / "0", config, params, layers)
            exchange.export_peft(path, root / family / "ours" / name)
            exchange.merge(path, root / family / f"{name}_merged")
            exports.write(root / family / f"{name}_merged", root / family / "merged" / name)
    run_reference(ref_python, "adapters", root)
    return root


@pytest.mark.parity
@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_peft_computes_the_same_here(exchanged, family, name, tmp_path):
    folder, tokens = exchanged / family, np.load(exchanged / "tokens.npy")
    expected = np.load(folder / "theirs" / f"{name}.npy")
    beside = logits(compose.find(folder / "run", folder / "theirs" / name), tokens)
    assert np.abs(beside - logits(compose.find(folder / "run"), tokens)).max() > 1e-2
    np.testing.assert_allclose(beside, expected, atol=1e-4)
    checkpoint = exchange.import_peft(folder / "theirs" / name, folder / "run", tmp_path / "run")
    np.testing.assert_allclose(logits(compose.find(checkpoint), tokens), expected, atol=1e-4)
    exchange.merge(checkpoint, tmp_path / "merged")
    np.testing.assert_allclose(logits(compose.find(tmp_path / "merged"), tokens), expected, atol=1e-4)
    if name in ("list", "pattern"):
        exchange.export_peft(checkpoint, tmp_path / "out")
        was, now = (load_file(path / peft.WEIGHTS_FILE) for path in (folder / "theirs" / name, tmp_path / "out"))
        assert was.keys() == now.keys()
        assert all(was[key].tobytes() == now[key].tobytes() for key in was)


@pytest.mark.parity
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("family", FAMILIES)
def test_our_adapters_compute_the_same_in_peft(exchanged, family, name):
    folder, tokens = exchanged / family, np.load(exchanged / "tokens.npy")
    ours = logits(compose.find(folder / name), tokens)
    for theirs in (f"ours/{name}.npy", f"ours/{name}.merged.npy", f"merged/{name}.npy"):
        worst = np.abs(np.load(folder / theirs) - ours).max()
        print(f"parity: {family} {theirs}: {worst:.1e}")
        assert worst <= 1e-4, theirs


def take_steps(config, params, adapter, weights, rows, settings, steps):
    """Losses and weights of our steps, of an adapter or of all weights."""
    constant = OptimizerConfig(schedule="constant", **settings)
    tx, schedule = optimizer.make_optimizer(constant, steps), optimizer.schedule(constant, steps)
    target = None if adapter is None else state.abstract_frozen(config, MESH, "float32", ())
    frozen = None if adapter is None else state.freeze(params, (), 0, MESH)
    trained = params if adapter is None else weights
    with jax.set_mesh(MESH):
        now = state.from_params(jax.tree.map(jnp.copy, trained), config, tx, MESH, adapter)
        take = step.make_train_step(config, tx, schedule, MESH, 1, adapter, target)
        losses = []
        for number in range(steps):
            batch = {name: np.split(value, steps)[number] for name, value in rows.items()}
            now, found = take(now, batch, frozen)
            losses.append(float(found["loss"]))
    return losses, jax.device_get(now.params)


def measured(directory, config, params, adapter, weights, rows, python, rate, steps=3):
    """Three steps of AdamW here and in torch, of an adapter and of all weights: how far from float64 each side ends.

    Returns:
        Of "adapter" and "full", of "ours" and "torch": the largest distance of the "loss" from that of torch in
        float64, and "rms" and "max" of that of the weights; and of ours the "losses".
    """
    settings = {"learning_rate": rate, "weight_decay": 0.1, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "clip_norm": 1.0}
    (directory / "train.json").write_text(json.dumps({"optimizer": settings, "steps": steps}))
    np.savez(directory / "rows.npz", **rows)
    run_reference(python, "train", directory)
    theirs = json.loads((directory / "losses.json").read_text())
    apart = {}
    for kind in ("adapter", "full"):
        which = adapter if kind == "adapter" else None
        losses, after = take_steps(config, params, which, weights, rows, settings, steps)
        ours = reference.weights(after, config) if which is None else by_name(after)
        found = {bits: trained(directory / f"{kind}{bits}", config) for bits in (32, 64)}
        sides = {"ours": (losses, ours), "torch": (theirs[f"{kind}32"], found[32])}
        apart[kind] = {
            side: {
                "loss": float(np.abs(np.subtract(each, theirs[f"{kind}64"])).max()),
                **distances(left, found[64], rate),
            }
            for side, (each, left) in sides.items()
        }
        print(f"parity: {steps} steps, {kind}: from float64 (weights in learning rates): {apart[kind]}")
        apart[kind]["ours"]["losses"] = losses
    return apart


def as_exact_as_torch(ours, torch):
    """Whether the loss moves, and our distances from float64 are at most twice torch's.

    Where a gradient is near zero, Adam's step has the sign of its rounding, so single weights end apart by as much as
    the learning rate, here and in torch: which of the two has the worse luck with its worst weight is chance, and the
    bound on it is the wider one.
    """
    return {
        "moves": ours["losses"][-1] != ours["losses"][0],
        "loss": ours["loss"] <= max(2 * torch["loss"], 2e-6),
        "rms": ours["rms"] <= max(2 * torch["rms"], 1e-4),
        "max": ours["max"] <= max(10 * torch["max"], 1e-4),
    }


HELD = dict.fromkeys(("moves", "loss", "rms", "max"), True)


def trained(directory, config):
    """What torch has trained, by names: an adapter's weights in our form, or a model's in theirs."""
    if peft.is_directory(directory):
        return by_name(peft.read(directory, config)[1])
    return load_file(directory / "model.safetensors")


def by_name(weights):
    return {jax.tree_util.keystr(key): leaf for key, leaf in jax.tree_util.tree_flatten_with_path(weights)[0]}


def distances(some, exact, rate):
    """Root mean square and largest difference of all weights, in units of the learning rate."""
    assert some.keys() == exact.keys()
    squares = sum(float(np.sum(np.square(some[name] - exact[name], dtype=np.float64))) for name in exact)
    size = sum(each.size for each in exact.values())
    worst = float(np.max([np.abs(some[name] - exact[name]).max() for name in exact]))
    return {"rms": (squares / size) ** 0.5 / rate, "max": worst / rate}


@pytest.mark.parity
def test_three_steps_move_weights_as_torch_does(ref_python, tmp_path):
    config, params = model(64, num_kv_heads=2)
    adapter = LoraConfig(3, 6.0)
    weights = drawn(adapter, config, 5)
    save_base(tmp_path, config, params)
    (tmp_path / "adapter").mkdir()
    peft.write(tmp_path / "adapter", adapter, jax.device_get(weights), "", {})
    apart = measured(tmp_path, config, params, adapter, weights, make_batch(rows=24), ref_python, rate=1e-3)
    assert as_exact_as_torch(**apart["adapter"]) == HELD
    assert as_exact_as_torch(**apart["full"]) == HELD


@pytest.mark.parity
@pytest.mark.long
def test_three_steps_on_smollm2_move_weights_as_torch_does(ref_python, tmp_path):
    imports.write(gguf.File(smollm2.fetch()), tmp_path / "run")
    exports.write(tmp_path / "run", tmp_path / "hf")
    config, params = load_checkpoint(tmp_path / "run")
    adapter = LoraConfig(8, 16.0)
    weights = jax.tree.map(lambda x: 0.2 * x, drawn(adapter, config, 5))
    (tmp_path / "adapter").mkdir()
    peft.write(tmp_path / "adapter", adapter, jax.device_get(weights), "", {})
    tokenizer = Tokenizer.from_files(store.read_assets(tmp_path / "run"))
    documents = [tokenizer.encode(text) for text in TEXTS]
    rows = packed(list(itertools.pairwise(documents))[:3], 80)
    apart = measured(tmp_path, config, params, adapter, weights, rows, ref_python, rate=1e-4)
    assert as_exact_as_torch(**apart["adapter"]) == HELD
    assert as_exact_as_torch(**apart["full"]) == HELD


def packed(documents_of_rows, length):
    """One row of each list of documents, as the loader packs them, with loss on every target."""
    names = ("tokens", "targets", "positions", "segment_ids")
    rows = {name: np.zeros((len(documents_of_rows), length), np.int32) for name in names}
    for row, documents in enumerate(documents_of_rows):
        start = 0
        for number, ids in enumerate(documents, 1):
            here = slice(start, start + len(ids) - 1)
            rows["tokens"][row, here], rows["targets"][row, here] = ids[:-1], ids[1:]
            rows["positions"][row, here], rows["segment_ids"][row, here] = np.arange(len(ids) - 1), number
            start = here.stop
    return {**rows, "loss_mask": rows["segment_ids"] > 0}
