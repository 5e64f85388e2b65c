"""A lower bound on the time of a program: the longest of the times for arithmetic, memory and links.

Arithmetic is the operations of `planning.flops`, spread evenly over the chips, at the peak rate of bfloat16. Memory
counts that every matrix product reads its operands and writes its result once, and that softmax and loss read and write
their scores; other traffic is left out. Links is the least that a chip must receive in each collective, over the links
into the worst placed chip of its group. Collectives over different mesh axes are assumed to overlap, and those over the
same axes are not.

A real step takes longer: none of the three resources is used at its peak all the time, and they overlap only in part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msm_jax.models import parameters, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.parameters import Parameter
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.planning.chips import Chip
from msm_jax.planning.programs import DecodeProgram, Program
from msm_jax.planning.topology import Topology
from msm_jax.training import metrics
from msm_jax.training.program import TrainProgram

CONVENTION = (
    "Model FLOPs are those of the matrix products of the forward pass, with a multiply-add as two and causal attention "
    "over full rows; training costs three times as much, and a frozen matrix twice. Recomputation is not counted. MFU "
    "is model FLOPs divided by the FLOPs that all chips could do in the same time at their bfloat16 peak."
)


@dataclass(frozen=True)
class Bound:
    """A lower bound on the seconds of one execution.

    Attributes:
        arithmetic: seconds that arithmetic takes.
        memory: seconds that memory traffic takes.
        links: seconds that collectives take, by mesh axes ("fsdp", "data×fsdp").
        model_flops: FLOPs of all chips together, without recomputation.
        hardware_flops: FLOPs of all chips together, with recomputation.
        memory_bytes: bytes per chip between memory and arithmetic, by kind.
        link_bytes: bytes that a chip receives, by mesh axes.
        link_bandwidth: bytes/s into a chip, by mesh axes.
        tokens: the number of tokens that one execution trains on or draws.
        devices: the number of chips.
        peak: FLOP/s of each chip.
    """

    arithmetic: float
    memory: float
    links: Mapping[str, float]
    model_flops: float
    hardware_flops: float
    memory_bytes: Mapping[str, float]
    link_bytes: Mapping[str, float]
    link_bandwidth: Mapping[str, float]
    tokens: int
    devices: int
    peak: float

    @property
    def seconds(self) -> float:
        """The seconds of the resource that takes longest."""
        return max(self.arithmetic, self.memory, *self.links.values(), 0.0)

    @property
    def binds(self) -> str:
        """The resource that takes longest: "arithmetic", "memory" or "links over AXES"."""
        times = {"arithmetic": self.arithmetic, "memory": self.memory}
        times |= {f"links over {axes}": seconds for axes, seconds in self.links.items()}
        return max(times, key=lambda name: times[name])

    @property
    def tokens_per_second(self) -> float:
        """The upper bound on the tokens per second of all chips together."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """The upper bound on model FLOPs divided by peak FLOPs."""
        return self.model_flops / (self.seconds * self.devices * self.peak)


def bound(
    program: Program, mesh: MeshConfig, chip: Chip, topology: Topology | None, figures: Mapping[str, Any]
) -> Bound:
    """Returns the bound of a program from the figures that `worker.run` returns."""
    received: dict[str, float] = {}
    for one in figures["collectives"]:
        received[one["axes"]] = received.get(one["axes"], 0.0) + one["received"]
    bandwidth = {axes: inflow(chip, topology, figures["network"][axes]) for axes in received}
    peak = metrics.peak_flops(figures["device_kind"])
    assert peak is not None, f"{chip.name} is listed in planning.chips but not in training.metrics"
    hardware = figures["flops"]["products"] + figures["flops"]["kernels"]
    moved = traffic(program, mesh, figures["held"])
    tokens = program.rows * program.seq_len if isinstance(program, TrainProgram) else program.batch
    return Bound(
        arithmetic=hardware / mesh.size / peak,
        memory=sum(moved.values()) / chip.hbm_bandwidth,
        links={axes: size / bandwidth[axes] for axes, size in received.items()},
        model_flops=model_flops(program),
        hardware_flops=hardware,
        memory_bytes=moved,
        link_bytes=received,
        link_bandwidth=bandwidth,
        tokens=tokens,
        devices=mesh.size,
        peak=peak,
    )


def model_flops(program: Program) -> float:
    """Returns the model FLOPs (see `CONVENTION`) of all chips together in one execution."""
    if isinstance(program, TrainProgram):
        context = (program.seq_len + 1) / 2
        per_token = metrics.flops_per_token(
            program.model, context, program.adapter, program.beside, program.objective.forwards
        )
        return per_token * program.rows * program.seq_len
    return transformer.forward_flops_per_token(program.model, program.slots) * program.batch


def inflow(chip: Chip, topology: Topology | None, places: list[int]) -> float:
    """Returns the bytes/s that can enter the worst placed chip of a group.

    `places` is the number of places that the group takes along each axis of the network. If an axis is closed to a
    ring, each chip on it has two neighbours; otherwise a chip at its end has one.
    """
    if topology is None or not places:
        return chip.link_bandwidth
    shape, rings = (*topology.shape, 1)[:3], (*topology.rings, False)[:3]
    links = 0
    for taken, length, ring in zip(places, shape, rings, strict=True):
        links += 0 if taken == 1 else 2 if ring and taken == length else 1
    return chip.link_bandwidth * links


def traffic(program: Program, mesh: MeshConfig, held: Mapping[str, float]) -> dict[str, float]:
    """Returns the bytes per chip between memory and arithmetic in one execution, by kind."""
    if isinstance(program, DecodeProgram):
        return {"weights": held["weights"], "caches": held["caches"]}
    model = program.model
    width = 2 if model.compute_dtype == "bfloat16" else 4
    tokens = program.rows * program.seq_len / (mesh.data * mesh.fsdp)
    ways = mesh.tensor
    heads, groups = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    matrices = [_sides_on_chip(row, model, mesh) for row in parameters.of_model(model) if row.is_layer_matrix]
    again = 1 if model.remat in ("full", "offload") else 0
    more = program.objective.forwards
    passes = (3 if program.adapter is None else 2) + again + more
    weights = sum(inputs * outputs for inputs, outputs in matrices)
    through = sum(inputs + outputs for inputs, outputs in matrices)
    # Queries, keys and values are read, and their mixture is written; the backward pass moves twice as much.
    attention = (2 * heads + 2 * groups) / ways
    return {
        "weights": passes * width * program.micro_batches * (
            model.num_layers * weights + model.hidden_size * model.vocab_size / ways
        ),
        "activations": passes * width * tokens * model.num_layers * through,
        "attention": (3 + again + more) * width * tokens * model.num_layers * attention,
        # Float32 scores over the vocabulary are written and read once in each of the two passes, and once in a
        # pass without gradient.
        "loss": tokens * model.vocab_size / ways * 4 * (4 + 2 * more),
        # Moments and parameters are read and written, and the gradient is read.
        "optimizer": 2 * held["optimizer"] + 1.5 * held["optimizer"],
    }


def _sides_on_chip(row: Parameter, model: ModelConfig, mesh: MeshConfig) -> tuple[float, float]:
    """Returns the numbers of inputs and outputs of the part of a matrix by which one chip multiplies."""
    inputs, outputs = (
        size / (mesh.tensor if "tensor" in sharding.mesh_axes(axis) else 1)
        for size, axis in zip(row.side_sizes(model), row.sides, strict=True)
    )
    return inputs, outputs
