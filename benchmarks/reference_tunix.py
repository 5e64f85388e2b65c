"""The Tunix side of `train_step.py` (google-tunix): its Llama and its trainer; runs in an environment of its own.

Its trainer's own loss takes the targets from the inputs, shifted, which packed rows do not allow; the one here reads
them from the batch and, unlike its own, makes no one-hot labels. What its training loop adds to each step is left out.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params
from tunix.sft import peft_trainer


def main(directory: Path) -> None:
    """Answers the requests on standard input."""
    settings = json.loads((directory / "settings.json").read_text())
    trainer = make_trainer(directory, settings)
    step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    batches = read_batches(directory, settings["batches"])
    losses: list[float] = []
    taken = 0
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        match request["do"]:
            case "run":
                start = time.perf_counter()
                for _ in range(request.get("steps", 1)):
                    loss, _, norm = step(batches[taken % len(batches)])
                    taken += 1
                    if len(losses) < settings["checked"]:
                        losses.append(float(loss))
                jax.block_until_ready((loss, norm, jax.tree.leaves(trainer.optimizer.opt_state)))
                answer = {"seconds": time.perf_counter() - start}
            case "end":
                version = importlib.metadata.version("google-tunix")
                answer = {"losses": losses, "how": f"tunix {version}, jax {jax.__version__}"}
        print(json.dumps(answer), flush=True)


def make_trainer(directory: Path, settings: dict[str, Any]) -> peft_trainer.PeftTrainer:
    """Returns Tunix's trainer on its Llama with the weights of weights.npz, in float32."""
    shape, s = settings["model"], settings["optimizer"]
    config = llama.ModelConfig(
        num_layers=shape["num_hidden_layers"], vocab_size=shape["vocab_size"], embed_dim=shape["hidden_size"],
        hidden_dim=shape["intermediate_size"], num_heads=shape["num_attention_heads"], head_dim=shape["head_dim"],
        num_kv_heads=shape["num_key_value_heads"], rope_theta=shape["rope_theta"], norm_eps=shape["rms_norm_eps"],
        weight_tying=shape["tie_word_embeddings"],
    )
    # Its attention leaves the config's base of the rotary angles out.
    llama.apply_rope = functools.partial(llama.apply_rope, rope_theta=shape["rope_theta"])
    with np.load(directory / "weights.npz") as arrays:
        save_file({name: np.ascontiguousarray(arrays[name]) for name in arrays.files}, directory / "model.safetensors")
    model = params.create_model_from_safe_tensors(str(directory), config, dtype=jnp.float32)
    adamw = optax.chain(
        optax.clip_by_global_norm(s["clip_norm"]),
        optax.adamw(
            s["learning_rate"], b1=s["b1"], b2=s["b2"], eps=s["eps"], weight_decay=s["weight_decay"],
            mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
        ),
    )
    config_of_trainer = peft_trainer.TrainingConfig(eval_every_n_steps=10**9)
    return peft_trainer.PeftTrainer(model, adamw, config_of_trainer).with_loss_fn(loss)


def loss(
    model: Any, tokens: jax.Array, positions: jax.Array, seen: jax.Array, targets: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the mean loss over the masked targets."""
    logits, _ = model(tokens, positions, None, seen)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(each, where=mask) / jnp.sum(mask)


def read_batches(directory: Path, count: int) -> list[dict[str, jax.Array]]:
    """Returns the rows as arguments of `loss`."""
    with np.load(directory / "rows.npz") as arrays:
        rows = {name: arrays[name] for name in arrays.files}
    segments = rows["segment_ids"]
    batch = {
        "tokens": rows["tokens"],
        "positions": rows["positions"],
        "seen": np.tril(segments[:, :, None] == segments[:, None, :]),
        "targets": rows["targets"],
        "mask": rows["loss_mask"],
    }
    cut = {name: np.split(array, count) for name, array in batch.items()}
    return [{name: jnp.asarray(cut[name][i]) for name in cut} for i in range(count)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
