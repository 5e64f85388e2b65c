"""Preference optimisation computes what TRL's DPO trainer on torch does: losses, gradients, and weights after steps."""

import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from test_parity_lora import HELD, MESH, as_exact_as_torch, by_name, distances, drawn, save_base, trained
from test_parity_weights import load_checkpoint
from test_sampling_decode import model

from benchmarks import reference
from msm_jax.checkpoints import exports, gguf, imports, peft, store
from msm_jax.data import pairs as pairs_lib
from msm_jax.data import sources, templates
from msm_jax.data.config import ChatConfig
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.models.lora import LoraConfig
from msm_jax.training import objective, optimizer, state, step
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.objective import REFERENCE
from msm_jax.training.preference import Preference
from msm_jax.training.state import Frozen
from tools import smollm2

SCRIPT = Path(__file__).parent / "parity_preference.py"
STEPS = 3


def drawn_pairs(vocabulary, seed=0):
    """Three steps of pairs with prompts of different length, as ids."""
    rng = np.random.default_rng(seed)

    def ids(most):
        return rng.integers(0, vocabulary, rng.integers(1, most)).tolist()

    def pair():
        return {"prompt_ids": ids(12), "chosen_ids": ids(9), "rejected_ids": ids(9)}

    return [[pair() for _ in range(6)] for _ in range(STEPS)]


def packed(pairs, rows, length):
    """The pairs of one step in `rows` rows, both answers of each side by side, as the loader packs them."""
    batch = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "targets", "positions", "segment_ids")}
    batch["loss_mask"] = np.zeros((rows, length), bool)
    for row, ours in enumerate(np.array_split(np.arange(len(pairs)), rows)):
        start, number = 0, 1
        for pair in (pairs[i] for i in ours):
            for answer in ("chosen_ids", "rejected_ids"):
                ids = pair["prompt_ids"] + pair[answer]
                here = slice(start, start + len(ids) - 1)
                batch["tokens"][row, here], batch["targets"][row, here] = ids[:-1], ids[1:]
                batch["positions"][row, here], batch["segment_ids"][row, here] = np.arange(len(ids) - 1), number
                batch["loss_mask"][row, here] = np.arange(len(ids) - 1) >= len(pair["prompt_ids"]) - 1
                start, number = here.stop, number + 1
    return batch


def ours_of(kind, config, params, adapter, weights, batches, settings):
    """Losses, the first gradient, and the weights after the steps, of an adapter or of all weights."""
    constant = OptimizerConfig(schedule="constant", **settings["optimizer"])
    tx, schedule = optimizer.make_optimizer(constant, STEPS), optimizer.schedule(constant, STEPS)
    how = Preference(
        settings["beta"], settings["label_smoothing"], 0.0, settings["loss_type"] == "sigmoid_norm",
        "base" if kind == "adapter" else "start",
    )
    target = frozen = which = None
    first, base = params, Frozen(params, (), jnp.uint32(0))
    if kind == "adapter":
        which, first = adapter, weights
        target, frozen = state.abstract_frozen(config, MESH, "float32", ()), state.freeze(params, (), 0, MESH)
    else:
        theirs = jax.jit(lambda f, b: objective.log_probabilities(f, config, b))
        batches = [{**batch, REFERENCE: theirs(base, batch)} for batch in batches]
    with jax.set_mesh(MESH):
        total, sums, grads = jax.jit(lambda p, b, f: step.gradients(p, config, b, 1, which, f, how))(
            first, batches[0], frozen
        )
        now = state.from_params(jax.tree.map(jnp.copy, first), config, tx, MESH, which)
        take = step.make_train_step(config, tx, schedule, MESH, 1, which, target, how)
        losses = []
        for batch in batches:
            now, found = take(now, batch, frozen)
            losses.append(float(found["loss"]))
    assert losses[0] == pytest.approx(float(total) / float(sums["pairs"]), rel=1e-6)
    scaled = jax.tree.map(lambda g: np.asarray(g) / float(sums["pairs"]), grads)
    return losses, scaled, jax.device_get(now.params)


def measured(directory, config, params, adapter, weights, pairs, shape, python, settings):
    """How far ours and TRL's in float32 are from TRL's in float64, of an adapter and of all weights."""
    (directory / "train.json").write_text(json.dumps(settings))
    (directory / "pairs.json").write_text(json.dumps(pairs))
    (directory / "adapter").mkdir(exist_ok=True)
    peft.write(directory / "adapter", adapter, jax.device_get(weights), "", {})
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent / "benchmarks"), "HF_HUB_OFFLINE": "1",
                   "OMP_NUM_THREADS": "2"}
    subprocess.run([python, str(SCRIPT), str(directory)], check=True, env=environment)
    theirs = json.loads((directory / "losses.json").read_text())
    batches = [packed(each, *shape) for each in pairs]
    apart, rate = {}, settings["optimizer"]["learning_rate"]
    for kind in ("adapter", "full"):
        losses, grads, after = ours_of(kind, config, params, adapter, weights, batches, settings)
        named = by_name if kind == "adapter" else lambda tree: reference.weights(tree, config)
        found = {bits: trained(directory / f"{kind}{bits}", config) for bits in (32, 64)}
        slopes = {bits: gradients(directory / f"{kind}{bits}.grads.npz") for bits in (32, 64)}
        if kind == "adapter":
            peft.write(directory / "adapter", adapter, grads, "", {})
            mine = load_file(directory / "adapter" / peft.WEIGHTS_FILE)
        else:
            mine = reference.weights(grads, config)
        scale = max(np.abs(each).max() for each in slopes[64].values())
        sides = {"ours": (losses, mine, named(after)), "torch": (theirs[f"{kind}32"], slopes[32], found[32])}
        apart[kind] = {
            side: {
                "loss": float(np.abs(np.subtract(each, theirs[f"{kind}64"])).max()),
                "gradient": max(float(np.abs(slope[name] - slopes[64][name]).max()) for name in slopes[64]) / scale,
                **distances(left, found[64], rate),
            }
            for side, (each, slope, left) in sides.items()
        }
        print(f"parity: DPO, {STEPS} steps, {kind}, {settings['loss_type']}: from float64: {apart[kind]}")
        apart[kind]["ours"]["losses"] = losses
    return apart


def gradients(path):
    """Gradients by the names of saved weights."""
    with np.load(path) as arrays:
        return {name.replace(".default.", "."): arrays[name] for name in arrays.files}


def holds(ours, torch, rounding=2e-6):
    """Whether loss, gradient and weights are as near to float64 as those of torch; see `as_exact_as_torch`.

    `rounding` is the distance of a loss that is taken for rounding, whatever that of torch is.
    """
    found = as_exact_as_torch(
        {name: value for name, value in ours.items() if name != "gradient"},
        {name: value for name, value in torch.items() if name != "gradient"},
    )
    return {
        **found,
        "loss": ours["loss"] <= max(2 * torch["loss"], rounding),
        "gradient": ours["gradient"] <= max(2 * torch["gradient"], 1e-5),
    }


ALL = {**HELD, "gradient": True}


def settings_of(rate, loss_type="sigmoid", label_smoothing=0.0, eps=1e-8):
    adamw = {"learning_rate": rate, "weight_decay": 0.1, "b1": 0.9, "b2": 0.95, "eps": eps, "clip_norm": 1.0}
    return {"optimizer": adamw, "beta": 0.3, "label_smoothing": label_smoothing, "loss_type": loss_type}


@pytest.mark.parity
@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm"])
def test_three_steps_are_those_of_trl(ref_python, loss_type, tmp_path):
    config, params = model(64, num_kv_heads=2)
    adapter = LoraConfig(3, 6.0)
    save_base(tmp_path, config, params)
    apart = measured(
        tmp_path, config, params, adapter, drawn(adapter, config, 5), drawn_pairs(64), (3, 96), ref_python,
        settings_of(1e-3, loss_type),
    )
    assert holds(**apart["adapter"]) == ALL
    assert holds(**apart["full"]) == ALL


@pytest.mark.parity
@pytest.mark.long
def test_three_steps_on_smollm2_are_those_of_trl(ref_python, tmp_path):
    imports.write(gguf.File(smollm2.fetch()), tmp_path / "run")
    exports.write(tmp_path / "run", tmp_path / "hf")
    config, params = load_checkpoint(tmp_path / "run")
    info, assets = store.read_info(tmp_path / "run"), store.read_assets(tmp_path / "run")
    tokenizer, template = Tokenizer.from_files(assets), templates.of_checkpoint(info, assets)
    encoded = []
    for _, pair in sources.iter_pairs("data/examples/preferences.jsonl"):
        (chosen, mask), (rejected, _) = pairs_lib.encode(pair, tokenizer, template, ChatConfig())
        begin = mask.index(True)
        encoded.append({"prompt_ids": chosen[:begin], "chosen_ids": chosen[begin:], "rejected_ids": rejected[begin:]})
    steps = [encoded[i : i + 2] for i in range(0, 2 * STEPS, 2)]
    adapter = LoraConfig(8, 16.0)
    weights = jax.tree.map(lambda x: 0.2 * x, drawn(adapter, config, 5))
    # The answers of a pair differ in a word, so that most of their gradients cancel, and some are nothing but rounding,
    # on both sides. With a small eps AdamW would move these weights by the whole learning rate, in a sign of chance.
    apart = measured(
        tmp_path, config, params, adapter, weights, steps, (2, 160), ref_python, settings_of(1e-4, eps=1e-6)
    )
    # The loss is beta times a difference of four sums of log-probabilities, whose own bound is 1e-4 for each token.
    assert holds(**apart["adapter"], rounding=1e-5) == ALL
    assert holds(**apart["full"], rounding=1e-5) == ALL
