"""The devices of a mesh send each other parameters and gradients in a train step, but never activations."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.training import optimizer, state, step
from msm_jax.training.config import OptimizerConfig

# Sizes of which none is another, nor a product of others: a shape tells what an array holds.
MODEL = ModelConfig(
    vocab_size=376, hidden_size=64, num_layers=3, num_heads=8, num_kv_heads=8, head_dim=10, intermediate_size=104,
    qk_norm=True, remat="full",
)
ROWS, LENGTH = 16, 19
COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(shape, adapter=None, remat="full"):
    """Returns (operation, element type, dimensions) of each collective in the compiled step."""
    mesh = make_mesh(MeshConfig(*shape))
    adamw = optimizer.make_optimizer(OptimizerConfig(1e-3), 10)
    model = dataclasses.replace(MODEL, remat=remat)
    frozen = None if adapter is None else state.abstract_frozen(model, mesh, "float32", ())
    schedule = optimizer.schedule(OptimizerConfig(1e-3), 10)
    train_step = step.make_train_step(model, adamw, schedule, mesh, 1, adapter, frozen)
    rows = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.bool_ if name == "loss_mask" else jnp.int32, sharding=rows)
        for name in ("tokens", "targets", "segment_ids", "positions", "loss_mask")
    }
    with jax.set_mesh(mesh):
        text = train_step.lower(state.abstract(model, adamw, mesh, adapter), batch, frozen).compile().as_text()
    return [
        (op, kind, tuple(map(int, filter(None, dims.split(",")))))
        for types, op in COLLECTIVE.findall(text)
        for kind, dims in ARRAY.findall(types)
    ]


def parameters(tensor, adapter):
    """Returns the sizes of gathered parameters, which only the tensor axis splits, in any order."""
    trees = [(shapes := transformer.abstract_params(MODEL), transformer.logical_axes(shapes))]
    if adapter is not None:
        weights = lora.abstract_weights(adapter, MODEL)
        trees.append((weights, lora.logical_axes(weights)))
    found = set()
    for shapes, axes_tree in trees:
        leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(axes_tree, is_leaf=sharding.is_axes), strict=True)
        for leaf, axes in leaves:
            sizes = [
                size // tensor if "tensor" in sharding.mesh_axes(name) else size
                for size, name in zip(leaf.shape, axes, strict=True)
                if name != "layers"
            ]
            found.add(tuple(sorted(sizes)))
    return found


@pytest.mark.parametrize("adapter", [None, LoraConfig(6, 6.0)])
@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 1, 8), (2, 2, 2)])
def test_parameters_are_gathered_and_activations_are_not(shape, adapter):
    found = [dims for op, kind, dims in collectives(shape, adapter) if op == "all-gather" and kind == "f32"]
    gathered = {tuple(sorted(size for size in dims if size > 1)) for dims in found}
    assert gathered <= parameters(shape[2], adapter)
    assert bool(gathered) == (shape[1] > 1)


def test_layers_are_gathered_one_at_a_time_whatever_is_kept():
    for remat in ("none", "dots", "full"):
        gathered = [dims for op, _, dims in collectives((1, 8, 1), remat=remat) if op == "all-gather"]
        assert not any(MODEL.num_layers in dims for dims in gathered)


@pytest.mark.parametrize(("shape", "sums"), [((8, 1, 1), False), ((1, 8, 1), False), ((1, 1, 8), True)])
def test_activations_are_summed_over_the_tensor_axis_alone(shape, sums):
    """Finds activations by their number of tokens, which is not a size of any parameter."""
    tokens = {ROWS, LENGTH, ROWS * LENGTH, ROWS // 8 * LENGTH}
    summed = [dims for op, kind, dims in collectives(shape) if op == "all-reduce" and tokens.intersection(dims)]
    assert bool(summed) == sums
