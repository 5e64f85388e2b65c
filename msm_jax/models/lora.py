"""Low-rank adapters (LoRA, arXiv 2106.09685): beside a frozen matrix W, the product of two thin ones.

An adapter's weights are a plain tree, layers stacked as in the base:

    layers/<target>/a [L, inputs, r], b [L, r, outputs]

and a layer computes W x + (alpha / r) · b a x. Axes of the base that are inputs or outputs together (heads and head
size, say) are one axis here. Several adapters may lie on one base; their terms are added.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from msm_jax.errors import InputError
from msm_jax.models.config import ModelConfig

Weights = dict[str, Any]

# What an adapter may lie on, with the logical axes of its inputs and of its outputs.
TARGETS: dict[str, tuple[str, str]] = {
    "query": ("embed", "heads"),
    "key": ("embed", "kv_heads"),
    "value": ("embed", "kv_heads"),
    "attention_out": ("heads", "embed"),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}


@dataclass(frozen=True)
class LoraConfig:
    """An adapter: its rank, its scale alpha / rank, the matrices it lies on, and dropout on its input in training."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = tuple(TARGETS)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no adapter has; put the targets into the order of `TARGETS`."""
        if self.rank < 1:
            raise InputError(f"lora.rank = {self.rank}; it must be at least 1")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"lora.alpha = {self.alpha}; it must be a number above 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout = {self.dropout}; it must lie in [0, 1)")
        if not self.targets:
            raise InputError(f"lora.targets is empty; name some of {', '.join(TARGETS)}")
        for name in self.targets:
            if name not in TARGETS:
                near = difflib.get_close_matches(name, TARGETS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(TARGETS)}"
                raise InputError(f"lora.targets: {name!r} is not a matrix of the model; {hint}")
        object.__setattr__(self, "targets", tuple(name for name in TARGETS if name in self.targets))

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["config"])
@dataclass(frozen=True)
class Adapter:
    """Weights with the settings that say how to apply them; a pytree whose settings are static."""

    weights: Weights
    config: LoraConfig


@partial(jax.tree_util.register_dataclass, data_fields=["adapters", "keys_LB"], meta_fields=[])
@dataclass(frozen=True)
class Active:
    """The adapters that a pass through the model applies, and for the last of them the keys of its dropout.

    `keys_LB` has one key per layer and row, or is None for no dropout. Inside a layer the leading axis is gone.
    """

    adapters: tuple[Adapter, ...]
    keys_LB: Key[Array, "L B"] | None = field(default=None)


def activate(
    adapters: Sequence[Adapter], model: ModelConfig, keys_B: Key[Array, " B"] | None = None
) -> Active:
    """The adapters as `transformer.apply` takes them; with one key per row, the last one drops inputs."""
    if keys_B is None or not adapters[-1].config.dropout:
        return Active(tuple(adapters))
    layers = jnp.arange(model.num_layers)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(0, None)), in_axes=(None, 0))
    return Active(tuple(adapters), fold(keys_B, layers))


def row_keys(seed: jax.Array, step: jax.Array, rows: int) -> Key[Array, " B"]:
    """The keys of one step's dropout, one per row of the batch, so that no cut of the batch changes them."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows))


def sizes(model: ModelConfig, target: str) -> tuple[int, int]:
    """Inputs and outputs of a matrix."""
    length = {
        "embed": model.hidden_size,
        "heads": model.num_heads * model.head_dim,
        "kv_heads": model.num_kv_heads * model.head_dim,
        "mlp": model.intermediate_size,
    }
    inputs, outputs = TARGETS[target]
    return length[inputs], length[outputs]


def init_weights(config: LoraConfig, model: ModelConfig, key: jax.Array) -> Weights:
    """Float32 weights as PEFT draws them: `a` uniform with bound 1 / sqrt(inputs), `b` zero, so the model is as before.

    A target's draw depends on its own name alone, not on which others there are.
    """

    def pair(target: str) -> dict[str, jax.Array]:
        inputs, outputs = sizes(model, target)
        own = jax.random.fold_in(key, list(TARGETS).index(target))
        bound = inputs**-0.5
        a = jax.random.uniform(own, (model.num_layers, inputs, config.rank), jnp.float32, -bound, bound)
        return {"a": a, "b": jnp.zeros((model.num_layers, config.rank, outputs), jnp.float32)}

    return {"layers": {target: pair(target) for target in config.targets}}


def abstract_weights(config: LoraConfig, model: ModelConfig) -> Weights:
    """The tree of `init_weights` as ShapeDtypeStructs."""
    return jax.eval_shape(lambda key: init_weights(config, model, key), jax.random.key(0))


def count_weights(config: LoraConfig, model: ModelConfig) -> int:
    """The number of weights of an adapter."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_weights(config, model)))


def logical_axes(weights: Weights) -> Any:
    """The logical axis names of each leaf; inputs and outputs are sharded as those of the base's matrix."""

    def axes(target: str) -> dict[str, tuple[str, ...]]:
        inputs, outputs = TARGETS[target]
        return {"a": ("layers", inputs, "rank"), "b": ("layers", "rank", outputs)}

    return {"layers": {target: axes(target) for target in weights["layers"]}}


def add(
    y: Float[Array, "*b out"], x: Float[Array, "*b inp"], target: str, active: Active | None, inputs: int = 1
) -> jax.Array:
    """`y`, a matrix applied to `x`, plus what the adapters of one layer add to it.

    Args:
        y: [B, T, *outputs]. x: [B, T, *inputs], with `inputs` axes after the tokens.
        target: the name of the matrix. active: the adapters with the weights of this layer; None for none.
    """
    for i, adapter in enumerate(active.adapters if active else ()):
        if target not in adapter.weights["layers"]:
            continue
        pair = jax.tree.map(lambda leaf: leaf.astype(x.dtype), adapter.weights["layers"][target])
        flat_NI = x.reshape(-1, math.prod(x.shape[x.ndim - inputs :]))
        if active is not None and active.keys_LB is not None and i == len(active.adapters) - 1:
            flat_NI = _dropped(flat_NI, active.keys_LB, target, adapter.config.dropout)
        low_NR = (flat_NI @ pair["a"]) * adapter.config.scale
        y = y + (low_NR @ pair["b"]).reshape(y.shape)
    return y


def _dropped(flat_NI: jax.Array, keys_B: jax.Array, target: str, rate: float) -> jax.Array:
    """Inverted dropout; each row of the batch draws with its own key."""
    number = list(TARGETS).index(target)
    shape = (flat_NI.shape[0] // keys_B.shape[0], flat_NI.shape[1])

    def row(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, shape)

    kept_NI = jax.vmap(row)(keys_B).reshape(flat_NI.shape)
    return jnp.where(kept_NI, flat_NI / (1 - rate), 0)


def merge(params: Any, adapter: Adapter) -> Any:
    """The base's parameters with the adapter added to its matrices, in float32 and rounded back to the base's dtype.

    Goes layer by layer, in place where `params` is donated.
    """
    layers = dict(params["layers"])
    for target, pair in adapter.weights["layers"].items():

        def one(i: jax.Array, stacked: jax.Array, pair: Weights = pair) -> jax.Array:
            product = jnp.asarray(pair["a"])[i].astype(jnp.float32) @ jnp.asarray(pair["b"])[i].astype(jnp.float32)
            delta = adapter.config.scale * product.reshape(stacked.shape[1:])
            return stacked.at[i].set((stacked[i].astype(jnp.float32) + delta).astype(stacked.dtype))

        stacked = layers[target]
        layers[target] = jax.lax.fori_loop(0, stacked.shape[0], one, stacked)
    return {**params, "layers": layers}


def forward_flops_per_token(config: LoraConfig, model: ModelConfig) -> int:
    """Floating-point operations that an adapter adds to the forward pass, a multiply-add counted as two."""
    return 2 * count_weights(config, model)
