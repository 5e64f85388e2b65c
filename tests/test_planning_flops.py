"""Operations counted in traced programs agree with formulas, and with the model FLOPs of the MFU."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.planning import flops
from msm_jax.training import metrics, program
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.objective import NEXT_TOKEN
from msm_jax.training.preference import Preference
from msm_jax.training.program import TrainProgram

ROWS, LENGTH = 4, 256
MODEL = ModelConfig(512, 64, 3, 4, 2, 16, 160, qk_norm=True, tie_embeddings=False, compute_dtype="bfloat16")
TOKENS = ROWS * LENGTH


def counted(f, *shapes):
    return flops.count(jax.jit(f).trace(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).jaxpr)


def test_a_product_in_a_loop_counts_once_per_iteration_and_one_that_is_not_used_not_at_all():
    def f(x, w):
        def body(carry, _):
            return carry @ w, carry @ w.T

        unused = x @ w @ w
        return jax.lax.scan(body, x, None, length=7), jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x), unused.shape

    assert counted(f, (8, 16), (16, 16)).total == (7 + 7 + 1) * 2 * 8 * 16 * 16


def test_what_is_recomputed_counts_again():
    def loss(x, w):
        return jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))

    plain, again = (
        counted(jax.value_and_grad(f, argnums=(0, 1)), (8, 16), (16, 16)).total for f in (loss, jax.checkpoint(loss))
    )
    assert (plain, again) == (6 * 2 * 8 * 16 * 16, 8 * 2 * 8 * 16 * 16)


def test_inside_shard_map_every_device_counts():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    f = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(PartitionSpec(("data", "fsdp")), PartitionSpec()),
        out_specs=PartitionSpec(("data", "fsdp")), check_vma=False,
    )
    # Four parts of the rows, each on both devices of the tensor axis.
    assert counted(f, (64, 16), (16, 32)).total == 2 * (2 * 64 * 16 * 32)


def of_step(adapter=None, micro_batches=1, objective=NEXT_TOKEN, **fields):
    model = dataclasses.replace(MODEL, **fields)
    step = TrainProgram(
        model, OptimizerConfig(1e-4), 10, ROWS, LENGTH, micro_batches, adapter, objective=objective
    )
    return flops.count(program.trace(step, make_mesh(MeshConfig(2, 1, 1))).jaxpr)


@pytest.mark.parametrize(
    ("adapter", "objective"),
    [
        (None, NEXT_TOKEN), (LoraConfig(8, 16.0), NEXT_TOKEN),
        (None, Preference()), (LoraConfig(8, 16.0), Preference(reference="base")),
    ],
    ids=["full", "lora", "reference_ahead", "reference_in_step"],
)
def test_a_step_without_recomputation_takes_the_model_flops(adapter, objective):
    """The reference attention computes all pairs; causal attention needs little more than half of them."""
    found = of_step(adapter, objective=objective, attention="reference", remat="none")
    model = metrics.flops_per_token(MODEL, LENGTH, adapter, (), objective.forwards) * TOKENS
    assert found.kernels == 0
    # With all frozen below it, the lowest layer needs no gradient of its input.
    spared = 0 if adapter is None else 2 * 2 * 64 * (64 + 2 * 32) * TOKENS
    assert model - spared <= found.total <= model


def test_accumulation_changes_no_count():
    assert of_step(attention="reference") == of_step(attention="reference", micro_batches=2)


def test_full_recomputation_repeats_all_of_a_layer_but_its_last_product():
    none, full = (of_step(attention="reference", remat=remat) for remat in ("none", "full"))
    layers = transformer.forward_flops_per_token(MODEL, LENGTH) - 2 * MODEL.hidden_size * MODEL.vocab_size
    last = MODEL.num_layers * 2 * MODEL.intermediate_size * MODEL.hidden_size
    assert full.products - none.products == TOKENS * (layers - last)


def test_a_causal_kernel_counts_the_blocks_it_visits():
    found = of_step(attention="splash", remat="none")
    pairs = 2 * MODEL.num_layers * MODEL.num_heads * MODEL.head_dim * ROWS * LENGTH * LENGTH
    # One block of 256 is all of a row: two products forward, three for the queries' gradient, four for keys and values.
    assert found.kernels == (2 + 3 + 4) * pairs
