"""Every reader of the table of parameters sees each of its rows, and a matrix that a test adds to it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file

from msm_jax.checkpoints import adapters, exports, gguf, huggingface, imports, peft, store
from msm_jax.checkpoints.digest import digest
from msm_jax.models import families, lora, parameters, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.models.parameters import PARAMETERS, Parameter
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.planning import roofline
from msm_jax.training import metrics
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.program import TrainProgram

MODEL = ModelConfig(96, 32, 3, 4, 2, 8, 48, max_position_embeddings=64)
EVERYTHING = dataclasses.replace(MODEL, qkv_bias=True, qk_norm=True, tie_embeddings=False)
EXTRA = Parameter(
    "extra", ("hidden_size", "num_kv_heads", "head_dim"), ("embed", "kv_heads", "head_dim"),
    lambda config: jax.nn.initializers.normal(config.hidden_size**-0.5), "matrix",
    "self_attn.extra_proj.weight", "attn_extra.weight", inputs=1,
)  # fmt: skip
SIZE = 32 * 2 * 8
MESH = MeshConfig(2, 2, 2)


@pytest.fixture
def added(monkeypatch):
    """Adds a matrix of a layer to the table."""
    monkeypatch.setattr(parameters, "PARAMETERS", (*PARAMETERS, EXTRA))


def init(config=MODEL):
    return jax.jit(lambda key: transformer.init_params(config, key))(jax.random.key(0))


def costs(config=MODEL):
    """Returns FLOPs per token (forward, trained, with an adapter) and the bytes of weights that a chip moves."""
    program = TrainProgram(config, OptimizerConfig(1e-4), 10, 8, 64)
    moved = roofline.traffic(program, MESH, {"optimizer": 0.0})
    return (
        transformer.forward_flops_per_token(config, 10.0),
        metrics.flops_per_token(config, 10.0),
        metrics.flops_per_token(config, 10.0, LoraConfig(2, 4.0)),
        moved["weights"],
    )


def test_an_added_matrix_is_initialised_and_counted(monkeypatch):
    count = transformer.count_params(MODEL)
    monkeypatch.setattr(parameters, "PARAMETERS", (*PARAMETERS, EXTRA))
    extra = init()["layers"]["extra"]
    assert (extra.shape, extra.dtype) == ((3, 32, 2, 8), np.dtype(np.float32))
    assert float(extra.std()) == pytest.approx(32**-0.5, rel=0.1)
    assert transformer.count_params(MODEL) == count + 3 * SIZE


@pytest.mark.usefixtures("added")
def test_an_added_matrix_is_sharded_by_its_axes():
    abstract = transformer.abstract_params(MODEL)
    axes = transformer.logical_axes(abstract)
    assert axes["layers"]["extra"] == ("layers", "embed", "kv_heads", "head_dim")
    shardings = sharding.tree_shardings(make_mesh(MESH), axes, abstract)
    assert shardings["layers"]["extra"].spec == PartitionSpec(None, "fsdp", "tensor", None)


def test_an_added_matrix_is_in_flops_and_memory_traffic(monkeypatch):
    before = costs()
    monkeypatch.setattr(parameters, "PARAMETERS", (*PARAMETERS, EXTRA))
    forward, trained, adapted, moved = (b - a for a, b in zip(before, costs(), strict=True))
    assert (forward, trained) == (3 * 2 * SIZE, 3 * 3 * 2 * SIZE)
    # A frozen matrix twice, and its adapter of rank 2 three times.
    assert adapted == 2 * 3 * 2 * SIZE + 3 * 2 * 3 * 2 * (32 + 16)
    # Three passes in float32 over three layers, whose outputs lie over two chips.
    assert moved == 3 * 4 * 3 * SIZE / 2


@pytest.mark.usefixtures("added")
def test_an_added_matrix_is_exported_and_imported_bit_for_bit(tmp_path):
    weights = init()
    info = {"model": dataclasses.asdict(MODEL), "step": 3, "phase": "pretrain"}
    store.save(tmp_path / "run" / "checkpoints" / "3", {"params": weights, "step": jnp.int32(3)}, info, {})
    exports.write(tmp_path / "run", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    for layer in range(3):
        theirs = tensors[f"model.layers.{layer}.self_attn.extra_proj.weight"]
        np.testing.assert_array_equal(theirs, np.asarray(weights["layers"]["extra"][layer]).reshape(32, 16).T)
    imports.write(huggingface.Directory(tmp_path / "hf"), tmp_path / "again")
    target = adapters.frozen_target(MODEL, make_mesh(MeshConfig()), "float32")
    again = store.load(store.resolve(tmp_path / "again"), {"params": target})["params"]
    jax.tree.map(np.testing.assert_array_equal, again, weights)
    assert "layers.extra" in digest(again)


@pytest.mark.usefixtures("added")
def test_an_added_matrix_takes_an_adapter(tmp_path):
    config = LoraConfig(2, 4.0)
    assert config.targets[-1] == "extra"
    fresh = lora.init_weights(config, MODEL, jax.random.key(1))
    pair = fresh["layers"]["extra"]
    assert (pair["a"].shape, pair["b"].shape) == ((3, 32, 2), (3, 2, 16))
    assert lora.logical_axes(fresh)["layers"]["extra"] == {
        "a": ("layers", "embed", "rank"), "b": ("layers", "rank", "adapter"),
    }  # fmt: skip
    weights = jax.tree.map(lambda x: np.asarray(x + 0.1), fresh)
    # A product with the matrix, as a layer would compute it: the adapter beside it equals the adapter merged into it.
    base, x = init(), jax.random.normal(jax.random.key(2), (2, 5, 32))
    inner = {name: {side: each[1] for side, each in pair.items()} for name, pair in weights["layers"].items()}
    active = lora.Active((Adapter({"layers": inner}, config),))
    beside = lora.add(lambda x: transformer.project(x, base["layers"]["extra"][1]), x, "extra", active)
    merged = lora.merge(base, Adapter(weights, config))["layers"]["extra"][1]
    np.testing.assert_allclose(beside, transformer.project(x, merged), atol=1e-4)
    peft.write(tmp_path, config, weights, "base", {})
    tensors = load_file(tmp_path / peft.WEIGHTS_FILE)
    assert "base_model.model.model.layers.2.self_attn.extra_proj.lora_A.weight" in tensors
    read, again = peft.read(tmp_path, MODEL)
    assert read == config
    jax.tree.map(np.testing.assert_array_equal, again, weights)


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_each_row_describes_one_parameter_for_every_reader(row):
    assert len(row.lengths) == len(row.axes)
    assert set(row.axes) <= sharding.RULES.keys()
    assert (row.layout == "matrix") == (0 < row.inputs < len(row.axes))
    weight = next(each for each in families.weights(EVERYTHING) if each.path[-1] == row.name)
    leaf = transformer.abstract_params(EVERYTHING)
    for key in weight.path:
        leaf = leaf[key]
    assert weight.full_shape == leaf.shape
    assert math.prod(weight.hf_shape) == math.prod(weight.shape) == math.prod(row.side_sizes(EVERYTHING))
    assert (row.name in lora.targets()) == row.is_layer_matrix
    if row.exists is not None:
        assert row not in parameters.of_model(dataclasses.replace(MODEL, tie_embeddings=True))


def test_names_in_files_are_those_of_one_parameter_each():
    found = families.weights(EVERYTHING)
    assert {weight.parameter for weight in found} == set(PARAMETERS) and len(found) == len(PARAMETERS)
    tensors = families.tensors(EVERYTHING)
    assert len(tensors) == 3 * sum(row.in_layer for row in PARAMETERS) + sum(not row.in_layer for row in PARAMETERS)
    assert len({gguf.tensor_name(weight, layer) for weight, layer in tensors.values()}) == len(tensors)


def test_the_forward_pass_depends_on_every_parameter():
    """A parameter that a layer creates but does not use would have no gradient."""
    tokens = np.arange(10, dtype=np.int32)[None]

    def loss(params):
        hidden = transformer.apply(params, EVERYTHING, tokens, tokens, np.ones_like(tokens))
        return jnp.sum(transformer.logits(params, EVERYTHING, hidden) ** 2)

    gradients = jax.jit(jax.grad(loss))(init(EVERYTHING))
    names = {path[-1].key for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0] if np.any(leaf)}
    assert names == {row.name for row in PARAMETERS}


@pytest.mark.parametrize("name", lora.targets())
def test_costs_fall_by_a_matrix_that_the_table_lacks(name, monkeypatch):
    row, before = parameters.find(name), costs()
    monkeypatch.setattr(parameters, "PARAMETERS", tuple(each for each in PARAMETERS if each is not row))
    size, after = math.prod(row.shape(MODEL)), costs()
    assert before[0] - after[0] == 3 * 2 * size
    assert before[1] - after[1] == 3 * 3 * 2 * size
    assert before[3] - after[3] == 3 * 4 * 3 * size / 2
