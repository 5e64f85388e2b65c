"""The transformer: an embedding, a block that is scanned over the layers, and a final norm.

The parameters are a plain dict, whose rows `models.parameters` describes. Layers are stacked on a leading axis:

    embedding [V, D]
    layers/   attention_norm [L, D], query [L, D, H, K], key and value [L, D, G, K], attention_out [L, H, K, D],
              (query_bias [L, H, K], key_bias, value_bias [L, G, K]), (query_norm, key_norm [L, K]),
              mlp_norm [L, D], gate and up [L, D, F], down [L, F, D]
    final_norm [D]
    output    [D, V]   (untied models only)

V is the vocabulary, D the hidden size, L the number of layers, H heads, G key-value heads, K the head size and F the
intermediate size.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from msm_jax.models import attention, embedding, lora, paged, parameters, rotary
from msm_jax.models.config import ModelConfig
from msm_jax.models.kernels import CUDNN_FORWARD, RESIDUALS, Packed
from msm_jax.models.paged import Cache, Paged
from msm_jax.models.parameters import Parameter
from msm_jax.parallel import mesh
from msm_jax.parallel.sharding import WHOLE, constrain, splits, use

log = logging.getLogger(__name__)

# On the CPU, a float32 product that sums more terms than the first number is computed in parts of at most the second.
_LONG_SUM, _SHORT_SUM = 1024, 768

Params = dict[str, Any]

# The name of a block's input, by which the policy "offload" finds it.
BLOCK_INPUT = "block_input"


def rms_norm(x: Float[Array, "*b D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "*b D"]:
    """Applies the root-mean-square norm (arXiv 1910.07467) over the last axis, in float32; keeps the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (normed * scale.astype(jnp.float32)).astype(x.dtype)


def project(x: jax.Array, weights: jax.Array, inputs: int = 1) -> jax.Array:
    """Multiplies the last `inputs` axes of `x` by the first `inputs` axes of `weights`, as a product of two matrices.

    If batch and tokens stayed separate axes, XLA on the CPU would first transpose the operands of the weights'
    gradient, which takes longer than the product.
    """
    kept = x.shape[: x.ndim - inputs]
    size = math.prod(weights.shape[:inputs])
    x_NK, weights_KM = x.reshape(-1, size), weights.reshape(size, -1)
    if size > _LONG_SUM and x.dtype == jnp.float32 and mesh.platform() == "cpu":
        product_NM = _in_parts(x_NK, weights_KM)
    else:
        product_NM = x_NK @ weights_KM
    return product_NM.reshape(*kept, *weights.shape[inputs:])


@jax.custom_vjp
def _in_parts(x_NK: jax.Array, weights_KM: jax.Array) -> jax.Array:
    """Computes a product as the sum of several shorter ones, which have a smaller rounding error.

    XLA on the CPU adds up the terms of a product one after the other, so that the error grows with their number. The
    gradients are single products: those of the parts would be padded to full size and added one by one.
    """
    size = x_NK.shape[1]
    part = -(-size // -(-size // _SHORT_SUM))
    return sum(
        (x_NK[:, k : k + part] @ weights_KM[k : k + part] for k in range(part, size, part)),
        start=x_NK[:, :part] @ weights_KM[:part],
    )


def _in_parts_forward(x_NK: jax.Array, weights_KM: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _in_parts(x_NK, weights_KM), (x_NK, weights_KM)


def _in_parts_backward(residuals: tuple[jax.Array, jax.Array], g_NM: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_NK, weights_KM = residuals
    return g_NM @ weights_KM.T, x_NK.T @ g_NM


_in_parts.defvjp(_in_parts_forward, _in_parts_backward)


def _create(module: Block | Transformer, row: Parameter) -> jax.Array:
    """Returns the float32 parameter of a row: Linen reads it from the tree, or initialises it during `init`."""
    weights: jax.Array = module.param(row.name, row.initial(module.config), row.shape(module.config), jnp.float32)
    return weights


class Block(nn.Module):
    """One layer. Attention and then SwiGLU take the normed hidden states, and are added to them."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        hidden_BTD: Float[Array, "B T D"],
        cache: Cache | None,
        adapters: lora.Active | None,
        positions_BT: Int[Array, "B T"],
        visible: Bool[Array, "B T S"] | Packed | Paged,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Returns the new hidden states, and the layer's cache with this call's keys and values.

        With a cache, `visible` is a `Paged`.
        """
        c = self.config
        dtype = jnp.dtype(c.compute_dtype)
        rows = {row.name: row for row in parameters.of_model(c) if row.in_layer}
        stored = {name: _create(self, row) for name, row in rows.items()}

        def param(name: str) -> jax.Array:
            weights = stored[name].astype(dtype)
            # While decoding with a cache, moving the few new tokens is cheaper than gathering the weights.
            return use(weights, *rows[name].axes) if cache is None else weights

        def linear(x: jax.Array, name: str) -> jax.Array:
            weights, inputs = param(name), rows[name].inputs
            return lora.add(lambda x: project(x, weights, inputs), x, name, adapters, inputs)

        if c.remat == "offload":
            hidden_BTD = checkpoint_name(hidden_BTD, BLOCK_INPUT)

        x_BTD = rms_norm(hidden_BTD, param("attention_norm"), c.rms_norm_eps)
        q_BTHK = linear(x_BTD, "query")
        k_BTGK = linear(x_BTD, "key")
        v_BTGK = linear(x_BTD, "value")
        if c.qkv_bias:
            q_BTHK = q_BTHK + param("query_bias")
            k_BTGK = k_BTGK + param("key_bias")
            v_BTGK = v_BTGK + param("value_bias")
        if c.qk_norm:
            q_BTHK = rms_norm(q_BTHK, param("query_norm"), c.rms_norm_eps)
            k_BTGK = rms_norm(k_BTGK, param("key_norm"), c.rms_norm_eps)
        q_BTHK = rotary.rotate(q_BTHK, positions_BT, c.rope_theta, c.rope_scaling)
        k_BTGK = rotary.rotate(k_BTGK, positions_BT, c.rope_theta, c.rope_scaling)
        q_BTHK = constrain(q_BTHK, "batch", "sequence", "heads", "head_dim")
        k_BTGK = constrain(k_BTGK, "batch", "sequence", "kv_heads", "head_dim")
        v_BTGK = constrain(v_BTGK, "batch", "sequence", "kv_heads", "head_dim")
        if isinstance(visible, Paged):
            assert cache is not None
            cache = paged.write(cache, k_BTGK, v_BTGK, visible, positions_BT)
            mixed_BTHK = paged.attend(q_BTHK, cache, visible, positions_BT)
        else:
            mixed_BTHK = attention.attend(q_BTHK, jnp.swapaxes(k_BTGK, 1, 2), jnp.swapaxes(v_BTGK, 1, 2), visible)
        mixed_BTHK = constrain(mixed_BTHK, "batch", "sequence", "heads", "head_dim")
        out_BTD = linear(mixed_BTHK, "attention_out")
        hidden_BTD = hidden_BTD + out_BTD
        hidden_BTD = constrain(hidden_BTD, "batch", "sequence", "hidden")

        x_BTD = rms_norm(hidden_BTD, param("mlp_norm"), c.rms_norm_eps)
        gate_BTF = linear(x_BTD, "gate")
        up_BTF = linear(x_BTD, "up")
        inner_BTF = constrain(nn.silu(gate_BTF) * up_BTF, "batch", "sequence", "mlp")
        hidden_BTD = hidden_BTD + linear(inner_BTF, "down")
        return constrain(hidden_BTD, "batch", "sequence", "hidden"), cache


def _remat_policy(remat: str) -> Any:
    """Returns the policy that says what is kept of a block for its backward pass, besides its input."""
    policies = jax.checkpoint_policies
    if remat == "none":
        # Everything but gathered parameters: otherwise each device would hold those of all layers.
        return policies.save_anything_except_these_names(WHOLE)
    if remat == "dots":
        kept = policies.save_from_both_policies(policies.dots_saveable, policies.save_only_these_names(RESIDUALS))
        return lambda primitive, *args, **params: primitive.name == CUDNN_FORWARD or kept(primitive, *args, **params)
    if remat == "offload":
        if mesh.platform() != "cpu":
            return policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=[BLOCK_INPUT],
                offload_src="device",
                offload_dst="pinned_host",
            )
        _say_once("remat: offload has no effect on a CPU, where the inputs of blocks are in the host's memory anyway")
    return None


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)


class Transformer(nn.Module):
    """The stack of layers, from tokens to hidden states; `logits` computes scores over the vocabulary from these."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        positions_BT: Int[Array, "B T"],
        segment_ids_BT: Int[Array, "B T"],
        adapters: lora.Active | None = None,
    ) -> Float[Array, "B T D"]:
        """Runs the stack.

        Args:
            tokens_BT: int32 token ids.
            positions_BT: position of each token in its segment.
            segment_ids_BT: the document of each token in a packed row, 0 for padding.
            adapters: the result of `lora.activate`, or None.

        Returns:
            The final normed hidden states in the compute dtype.
        """
        c = self.config
        dtype = jnp.dtype(c.compute_dtype)
        # Includes the output matrix of an untied model, so that one init makes the whole tree; `logits` reads it.
        stored = {row.name: _create(self, row) for row in parameters.of_model(c) if not row.in_layer}
        hidden_BTD = constrain(embedding.lookup(stored["embedding"], tokens_BT, dtype), "batch", "sequence", "hidden")
        # Initialisation runs on two tokens, for which no attention backend is chosen.
        initial = self.is_initializing()
        visible = attention.segment_mask(segment_ids_BT) if initial else attention.visible(segment_ids_BT, c)
        block = Block
        if c.remat != "none" or splits(["embed"]):
            block = nn.remat(Block, prevent_cse=not c.scan_layers, policy=_remat_policy(c.remat))
        hidden_BTD, _ = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast),
            length=c.num_layers,
            unroll=1 if c.scan_layers else c.num_layers,
        )(c, name="layers")(hidden_BTD, None, adapters, positions_BT, visible)
        return rms_norm(hidden_BTD, stored["final_norm"], c.rms_norm_eps)


def apply(
    params: Params,
    config: ModelConfig,
    tokens_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"],
    segment_ids_BT: Int[Array, "B T"],
    adapters: lora.Active | None = None,
) -> Float[Array, "B T D"]:
    """Runs `Transformer.__call__` as a plain function of the parameters."""
    hidden_BTD = Transformer(config).apply({"params": params}, tokens_BT, positions_BT, segment_ids_BT, adapters)
    # Linen also returns variables only if some of them are mutable.
    return cast(jax.Array, hidden_BTD)


def unstack(params: Params, config: ModelConfig, adapters: Sequence[lora.Adapter] = ()) -> Params:
    """Returns the parameters in the form that `run_layers` takes: `layers` is a list with one dict per layer.

    If there are adapters, the entry "adapters" is a list of what each layer applies. A loop that runs the stack many
    times would otherwise copy every layer out of the stacked arrays each time.
    """
    leaves, tree = jax.tree.flatten(params["layers"])
    layers = [jax.tree.unflatten(tree, [leaf[i] for leaf in leaves]) for i in range(config.num_layers)]
    unstacked = {**params, "layers": layers}
    if adapters:
        unstacked["adapters"] = unstack_adapters(adapters, config)
    return unstacked


def unstack_adapters(adapters: Sequence[lora.Adapter], config: ModelConfig) -> list[lora.Active]:
    """Returns what each layer applies: the entry "adapters" of `unstack`."""
    stacked = lora.activate(adapters, config)
    return [jax.tree.map(operator.itemgetter(i), stacked) for i in range(config.num_layers)]


def run_layers(
    unstacked: Params,
    config: ModelConfig,
    tokens_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"],
    visible: Bool[Array, "B T T"] | Paged,
    caches: list[Cache] | None = None,
    uses_AB: Float[Array, "A B"] | None = None,
) -> tuple[Float[Array, "B T D"], list[Cache] | None]:
    """Runs the stack layer by layer, under any mask or over a cache. It is for sampling and scoring.

    Args:
        unstacked: the result of `unstack`, whose adapters are applied.
        tokens_BT: int32 token ids.
        positions_BT: position of each token in its sequence.
        visible: a mask, True where a token sees another of this call; or the pages of each row in the caches, to which
            the tokens are written before attention.
        caches: the result of `paged.init`, or None under a mask.
        uses_AB: see `lora.Active`.

    Returns:
        The final normed hidden states in the compute dtype, and the updated caches (None if there were none).
    """
    hidden_BTD = unstacked["embedding"].astype(jnp.dtype(config.compute_dtype))[tokens_BT]
    hidden_BTD = constrain(hidden_BTD, "batch", "sequence", "hidden")
    updated: list[Cache] = []
    adapters = unstacked.get("adapters") or [None] * config.num_layers
    if uses_AB is not None:
        adapters = [each and dataclasses.replace(each, uses_AB=uses_AB) for each in adapters]
    for i, layer in enumerate(unstacked["layers"]):
        before = None if caches is None else caches[i]
        applied = Block(config).apply({"params": layer}, hidden_BTD, before, adapters[i], positions_BT, visible)
        hidden_BTD, after = cast(tuple[jax.Array, Cache | None], applied)
        if after is not None:
            updated.append(after)
    hidden_BTD = rms_norm(hidden_BTD, unstacked["final_norm"], config.rms_norm_eps)
    return hidden_BTD, updated if caches is not None else None


def logits(params: Params, config: ModelConfig, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
    """Returns float32 scores over the vocabulary from final hidden states."""
    if config.tie_embeddings:
        weights_VD = params["embedding"].astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, weights_VD, preferred_element_type=jnp.float32)
    weights_DV = params["output"].astype(hidden.dtype)
    return jnp.einsum("...d,dv->...v", hidden, weights_DV, preferred_element_type=jnp.float32)


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Returns random float32 parameters, which `models.parameters` says how to draw."""
    dummy = jnp.zeros((1, 2), jnp.int32)
    # A scan over the layers gives the same numbers as an unrolled loop, which takes a minute to compile.
    return Transformer(dataclasses.replace(config, scan_layers=True)).init(key, dummy, dummy, dummy)["params"]


def abstract_params(config: ModelConfig) -> Params:
    """Returns the tree of `init_params` as ShapeDtypeStructs; allocates nothing and uses no device."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def count_params(config: ModelConfig) -> int:
    """Returns the exact number of parameters, from abstract shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


def logical_axes(params: Params) -> Any:
    """Returns the logical axis names of each parameter: a tree of tuples with the structure of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: parameters.find(path[-1].key).full_axes, params)


def forward_flops_per_token(config: ModelConfig, context: float) -> float:
    """Returns the floating-point operations of the forward pass per token; a multiply-add counts as two.

    Counts matrix products only: those with the matrices of the layers, the output projection (tied or not), and
    attention over a mean visible context of `context` tokens, which is (T + 1) / 2 for full causal rows of length T.
    Training costs three times as much (PaLM, arXiv 2204.02311, appendix B); recomputation is not counted.
    """
    c = config
    per_layer: float = 2 * sum(math.prod(row.shape(c)) for row in parameters.of_model(c) if row.is_layer_matrix)
    per_layer += 2 * 2 * c.num_heads * c.head_dim * context
    return c.num_layers * per_layer + 2 * c.hidden_size * c.vocab_size
