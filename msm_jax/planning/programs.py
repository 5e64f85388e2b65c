"""The programs that a plan measures, as data that another process can read: the train step and the decode step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from msm_jax.checkpoints import adapters
from msm_jax.models import lora, paged, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.sampling import decode
from msm_jax.sampling.draw import Drawing
from msm_jax.training import program
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.program import TrainProgram

# The tokens of a page of the cache, as an engine has them.
PAGE = 128


@dataclass(frozen=True)
class DecodeProgram:
    """The decode step: a token for each of `batch` rows with caches of `slots` slots, weights in the compute dtype."""

    model: ModelConfig
    batch: int
    slots: int
    beside: tuple[LoraConfig, ...] = ()


Program = TrainProgram | DecodeProgram


@dataclass(frozen=True)
class Job:
    """A program on a mesh over the chips of `topology`, or over the devices of this machine where that is empty."""

    program: Program
    mesh: MeshConfig
    topology: str = ""


def to_json(job: Job) -> dict[str, Any]:
    """Returns the job as JSON; the inverse of `from_json`."""
    written = {**dataclasses.asdict(job), "kind": "decode"}
    if isinstance(job.program, TrainProgram):
        written["kind"] = "train"
        written["program"]["objective"]["name"] = job.program.objective.name
    return written


def from_json(value: Mapping[str, Any]) -> Job:
    """Returns the job that `to_json` wrote."""
    fields = dict(value["program"])
    fields["model"] = ModelConfig.from_json(fields["model"])
    fields["beside"] = tuple(_adapter(each) for each in fields["beside"])
    found: Program
    if value["kind"] == "train":
        fields["optimizer"] = OptimizerConfig(**fields["optimizer"])
        fields["adapter"] = _adapter(fields["adapter"]) if fields["adapter"] else None
        objective = dict(fields["objective"])
        fields["objective"] = program.OBJECTIVES[objective.pop("name")](**objective)
        found = TrainProgram(**fields)
    else:
        found = DecodeProgram(**fields)
    return Job(found, MeshConfig(**value["mesh"]), value["topology"])


def _adapter(value: Mapping[str, Any]) -> LoraConfig:
    return LoraConfig(**{**value, "targets": tuple(value["targets"])})


def trace(found: Program, mesh: Mesh) -> jax.stages.Traced:
    """Traces the program over `mesh`, whose devices need not exist."""
    return program.trace(found, mesh) if isinstance(found, TrainProgram) else _trace_decode(found, mesh)


def _trace_decode(found: DecodeProgram, mesh: Mesh) -> jax.stages.Traced:
    args = _decode_arguments(found, mesh)
    with jax.set_mesh(mesh):
        return decode.decode.trace(args[0], found.model, *args[1:], most=1)


def _decode_arguments(
    found: DecodeProgram, mesh: Mesh
) -> tuple[transformer.Params, list[paged.Cache], decode.Rows, Any, Any]:
    """Returns unstacked parameters and the other arguments as ShapeDtypeStructs with shardings."""
    model, everywhere = found.model, sharding.replicated(mesh)

    def whole(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    stacked = adapters.frozen_target(model, mesh, model.compute_dtype)
    beside = tuple(Adapter(adapters.weights_target(each, model, mesh), each) for each in found.beside)

    def sliced(leaf: Any) -> Any:
        where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*leaf.sharding.spec[1:]))
        return jax.ShapeDtypeStruct(leaf.shape[1:], jnp.dtype(model.compute_dtype), sharding=where)

    one = jax.tree.map(sliced, stacked["layers"])
    unstacked = {**stacked, "layers": [one] * model.num_layers}
    if beside:
        active = lora.Active(tuple(Adapter(jax.tree.map(sliced, each.weights), each.config) for each in beside))
        unstacked["adapters"] = [active] * model.num_layers
    pages = -(-found.slots // PAGE)
    count = 1 + found.batch * max(0, pages - paged.NEAR)

    def cached(leaf: Any) -> Any:
        axes = paged.NEAR_AXES if len(leaf.shape) == len(paged.NEAR_AXES) else paged.AXES
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding.sharding(mesh, axes, leaf.shape))

    caches = jax.tree.map(cached, jax.eval_shape(lambda: paged.init(model, count, PAGE, found.batch)))

    def column(dtype: Any) -> Any:
        return whole((found.batch,), dtype)

    rows = decode.Rows(
        column(jnp.int32), column(jnp.int32), column(jnp.int32),
        paged.Paged(whole((found.batch, pages), jnp.int32), column(jnp.int32)),
        Drawing(column(jnp.int32), column(jnp.float32), column(jnp.int32), column(jnp.float32)),
        whole((found.batch, 8), jnp.int32), column(jnp.bool_), whole((len(beside), found.batch), jnp.float32),
    )
    return unstacked, caches, rows, whole((), jnp.int32), whole((), jnp.int32)


def held(found: Program, mesh: Mesh) -> dict[str, float]:
    """Returns the bytes per device of the program's arguments, by kind: "weights", "optimizer", "caches", "batch".

    They count the arrays alone, without the padding of the compiler's tiles.
    """
    if isinstance(found, DecodeProgram):
        unstacked, caches, *_ = _decode_arguments(found, mesh)
        return {"weights": _bytes(unstacked), "caches": _bytes(caches)}
    state, batch, frozen = program.arguments(found, mesh)
    return {
        "weights": _bytes((state.params, frozen)), "optimizer": _bytes(state.opt_state), "batch": _bytes(batch),
    }


def _bytes(tree: Any) -> float:
    return float(
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )


def kept(found: TrainProgram, mesh: Mesh) -> float:
    """Returns the bytes per device that the layers keep from the forward to the backward pass of one micro-batch."""
    state, batch, frozen = program.arguments(found, mesh)
    rows = found.rows // found.micro_batches
    part = {name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype) for name, leaf in batch.items()}

    def pull(params: Any, part: Any, frozen: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return found.objective.loss_sum(params, found.model, part, found.adapter, frozen)[0]

        return jax.vjp(loss, params)[1]

    with jax.set_mesh(mesh):
        residuals = jax.tree.leaves(jax.eval_shape(pull, state.params, part, frozen))
    model = found.model
    split = {model.num_heads, model.num_heads * model.head_dim, model.num_kv_heads,
             model.num_kv_heads * model.head_dim, model.intermediate_size}
    total = 0.0
    for leaf in residuals:
        if leaf.shape[:1] == (model.num_layers,) and {rows, found.seq_len} <= set(leaf.shape[1:]):
            ways = mesh.shape["data"] * mesh.shape["fsdp"]
            ways *= mesh.shape["tensor"] if split & set(leaf.shape[1:]) - {rows, found.seq_len} else 1
            total += math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize / ways
    return total
