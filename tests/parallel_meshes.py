"""Loss, gradients, greedy tokens and checkpoints of a small model, which tests compare across meshes.

Run as a program, it is one of several processes with one mesh: `parallel_meshes.py DATAxFSDPxTENSOR CHECKPOINT OUT`
restores a checkpoint, saves it again under OUT, and writes what it computed.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from msm_jax.checkpoints import store
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import backend, distributed, sharding
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import optimizer, state, step
from msm_jax.training.config import OptimizerConfig

# A Qwen3 in small: norms of queries and keys, grouped heads, tied embedding; every dimension in eighths.
MODEL = ModelConfig(
    vocab_size=96, hidden_size=32, num_layers=2, num_heads=16, num_kv_heads=8, head_dim=8, intermediate_size=48,
    rope_theta=1e6, qk_norm=True, max_position_embeddings=64,
)
ADAMW = optimizer.make_optimizer(OptimizerConfig(learning_rate=1e-3), 10)
ROWS, LENGTH = 8, 16
PROMPT, REPLY = 8, 16
PROMPTS = 4


def parameters(mesh: Mesh) -> Any:
    """Returns random weights, the same on any mesh; norms are random too."""
    shapes = transformer.abstract_params(MODEL)
    where = sharding.tree_shardings(mesh, transformer.logical_axes(shapes), shapes)
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct, where: jax.sharding.Sharding) -> jax.Array:
        values = rng.normal(size=leaf.shape, scale=leaf.shape[-1] ** -0.5).astype(np.float32)
        values += leaf.ndim < 3 and leaf.shape[0] == MODEL.num_layers  # norms lie about one
        return jax.make_array_from_callback(leaf.shape, where, lambda index: values[index])

    return jax.tree.map(draw, shapes, where)


def state_on(mesh: Mesh) -> dict[str, Any]:
    """Returns parameters and an optimizer state with moments that are not zero, in the form of a checkpoint."""
    fresh = state.from_params(parameters(mesh), MODEL, ADAMW, mesh)
    moved = jax.jit(
        lambda now: jax.tree.map(lambda x: jnp.sin(x + 1.0) if x.dtype == jnp.float32 else x + 3, now.opt_state),
        out_shardings=state.shardings(MODEL, ADAMW, mesh).opt_state,
    )(fresh)
    return {"params": parameters(mesh), "opt_state": moved, "step": fresh.step}


def target(mesh: Mesh) -> dict[str, Any]:
    """Returns the abstract tree that is passed to `checkpoints.store.load`."""
    shapes = state.abstract(MODEL, ADAMW, mesh)
    return {"params": shapes.params, "opt_state": shapes.opt_state, "step": shapes.step}


def host(tree: Any) -> Any:
    """Returns the arrays of any mesh as numpy arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def compute(params: Any, mesh: Mesh) -> dict[str, Any]:
    """Returns loss, gradients and greedy replies as numpy arrays."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, MODEL.vocab_size, (ROWS, LENGTH + 1)).astype(np.int32)
    borders = rng.integers(1, LENGTH, ROWS)
    slots = np.arange(LENGTH, dtype=np.int32)
    second = slots[None] >= borders[:, None]
    batch = {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "segment_ids": second.astype(np.int32) + 1,
        "positions": np.where(second, slots - borders[:, None], slots).astype(np.int32),
        "loss_mask": rng.random((ROWS, LENGTH)) < 0.8,
    }
    rows = sharding.batch_sharding(mesh)
    placed = {
        name: jax.make_array_from_callback(value.shape, rows, lambda index, value=value: value[index])
        for name, value in batch.items()
    }
    with jax.set_mesh(mesh):
        gradients = jax.jit(lambda params, batch: step.gradients(params, MODEL, batch, 1))
        loss, _, grads = gradients(params, placed)
        replies = _greedy(params, ids[:PROMPTS, :PROMPT])
        return {"loss": host(loss), "gradients": host(grads), "replies": host(replies)}


def _greedy(params: Any, prompts: np.ndarray) -> jax.Array:
    """Returns greedy replies, each token computed from all before it; the engine spans one process alone."""
    rows, length = np.arange(PROMPTS), PROMPT + REPLY
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (PROMPTS, length))

    def advance(step: jax.Array, tokens: jax.Array) -> jax.Array:
        hidden = transformer.apply(params, MODEL, tokens, positions, jnp.ones_like(tokens))
        scores = transformer.logits(params, MODEL, hidden[rows, step - 1])
        return tokens.at[rows, step].set(jnp.argmax(scores, axis=-1).astype(jnp.int32))

    tokens = jnp.pad(prompts, ((0, 0), (0, REPLY)))
    return jax.jit(lambda tokens: jax.lax.fori_loop(PROMPT, length, advance, tokens))(tokens)[:, PROMPT:]


def margins(params: Any, replies: np.ndarray) -> np.ndarray:
    """Returns the difference between the scores of each greedy token and the next best, [prompts, reply]."""
    prompts = np.random.default_rng(1).integers(0, MODEL.vocab_size, (ROWS, LENGTH + 1))[:PROMPTS, :PROMPT]
    tokens = np.concatenate([prompts, replies], axis=1).astype(np.int32)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    hidden = transformer.apply(params, MODEL, tokens, positions, np.ones_like(tokens))
    scores = np.sort(transformer.logits(params, MODEL, hidden)[:, PROMPT - 1 : -1], axis=-1)
    return scores[..., -1] - scores[..., -2]


def save(tree: dict[str, Any], run: Path) -> Path:
    """Writes a checkpoint of `state_on`."""
    writer = store.Writer(run, 1)
    writer.save(1, tree, {}, {})
    writer.wait()
    found = store.latest(run)
    assert found is not None
    return found


def main() -> None:
    """Runs one of several processes."""
    shape, checkpoint, out = sys.argv[1:]
    config = MeshConfig(*map(int, shape.split("x")))
    backend.prepare(config.size, threads=0)
    distributed.start()
    mesh = make_mesh(config)
    restored = store.load(Path(checkpoint), target(mesh))
    save(restored, Path(out))
    results = compute(restored["params"], mesh)
    if jax.process_index() == 0:
        flat = {f"gradient{i}": leaf for i, leaf in enumerate(jax.tree.leaves(results.pop("gradients")))}
        np.savez(Path(out) / "results.npz", **results, **flat)


if __name__ == "__main__":
    main()
