"""Compares cuDNN's attention on a GPU with the float32 reference, over packed rows, alone and in a train step.

Prints JSON that `test_models_attention.py` checks: the root mean square difference of each result, relative to its own
size. It is a process of its own, since JAX in the other tests sees only simulated CPU devices.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.models import attention, kernels, transformer
from msm_jax.models.config import ModelConfig

LENGTH = 512
# Several documents, one with padding behind it, and one alone.
SEGMENTS = np.array([[1] * 200 + [2] * 56 + [3] * 256, [1] * 3 + [2] * 400 + [0] * 109, [1] * LENGTH], np.int32)
MODEL = ModelConfig(
    vocab_size=256, hidden_size=256, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=64, intermediate_size=512,
    compute_dtype="bfloat16",
)


def distance(got: jax.Array, want: jax.Array) -> float:
    """Returns the largest difference of two arrays, relative to the second."""
    a, b = (np.asarray(x, np.float64) for x in (got, want))
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def alone(heads: int, groups: int, size: int) -> dict[str, float]:
    """Compares results and gradients from the same bfloat16 operands; padding is left out."""
    keys = jax.random.split(jax.random.key(0), 4)
    rows = len(SEGMENTS)
    q, w = (jax.random.normal(k, (rows, LENGTH, heads, size), jnp.bfloat16) for k in keys[:2])
    k, v = (jax.random.normal(k, (rows, groups, LENGTH, size), jnp.bfloat16) for k in keys[2:])
    segments = jnp.asarray(SEGMENTS)
    weights = jnp.where((segments != 0)[..., None, None], w, 0).astype(jnp.float32)

    def run(attend, *arrays):
        def loss(q, k, v):
            out = attend(q, k, v).astype(jnp.float32)
            return jnp.sum(out * weights), jnp.where(weights != 0, out, 0)

        (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
        return dict(zip(("out", "by q", "by k", "by v"), (out, *grads), strict=True))

    got = run(lambda q, k, v: kernels.cudnn(q, k, v, segments), q, k, v)
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    with jax.default_matmul_precision("highest"):
        want = run(lambda q, k, v: attention.attend(q, k, v, attention.segment_mask(segments)), *wide)
    return {name: distance(got[name], want[name]) for name in want}


def in_a_model(remat: str) -> float:
    """Compares the gradient of a packed batch with respect to all weights with that of the float32 reference."""
    params = transformer.init_params(MODEL, jax.random.key(1))
    tokens = jax.random.randint(jax.random.key(2), SEGMENTS.shape, 0, MODEL.vocab_size)
    positions = jnp.broadcast_to(jnp.arange(LENGTH), SEGMENTS.shape)
    segments = jnp.asarray(SEGMENTS)

    def loss(params, config):
        hidden = transformer.apply(params, config, tokens, positions, segments)
        return jnp.sum(jnp.where((segments != 0)[..., None], jnp.sin(hidden.astype(jnp.float32)), 0))

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    got = grad(params, dataclasses.replace(MODEL, remat=remat))
    with jax.default_matmul_precision("highest"):
        want = grad(params, dataclasses.replace(MODEL, attention="reference", compute_dtype="float32"))
    flat = [jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (got, want)]
    return distance(*flat)


if __name__ == "__main__":
    found = {
        "alone": {f"{h}, {g}, {k}": alone(h, g, k) for h, g, k in ((4, 2, 64), (8, 2, 128))},
        "in a model": {remat: in_a_model(remat) for remat in ("dots", "full")},
    }
    print(json.dumps(found))
