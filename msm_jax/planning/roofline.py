"""The least time that a program can take: by arithmetic, by memory and by the links, whichever is longest.

Arithmetic: the operations of `planning.flops`, evenly over the chips, at the peak of bfloat16. Memory: every matrix
product reads its operands and writes its result once, softmax and loss once more; what else moves is left out. Links:
what a chip must at least receive in each collective, over the links that lead into the worst placed chip of its group;
collectives over different mesh axes are taken to overlap, those over the same axes not.

A real step takes longer: none of the three is ever at its peak all the time, and they overlap in part.
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
    "Model FLOPs: matrix products of the forward pass, a multiply-add as two, causal attention over full rows; "
    "training costs three times that, a frozen matrix twice. Recomputation is not counted. MFU: model FLOPs over what "
    "all chips could do in the time at their bfloat16 peak."
)


@dataclass(frozen=True)
class Bound:
    """The least seconds of one execution.

    Attributes:
        arithmetic, memory: seconds by each. links: seconds by mesh axes ("fsdp", "data×fsdp").
        model_flops, hardware_flops: of all chips together; the latter with what is recomputed.
        memory_bytes: per chip. link_bytes: received per chip, by mesh axes. link_bandwidth: into a chip, likewise.
        tokens: that one execution trains on or draws.
        devices, peak: chips, and FLOP/s of each.
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
        """Of the resource that binds."""
        return max(self.arithmetic, self.memory, *self.links.values(), 0.0)

    @property
    def binds(self) -> str:
        """The resource that takes longest: "arithmetic", "memory" or "links over AXES"."""
        times = {"arithmetic": self.arithmetic, "memory": self.memory}
        times |= {f"links over {axes}": seconds for axes, seconds in self.links.items()}
        return max(times, key=lambda name: times[name])

    @property
    def tokens_per_second(self) -> float:
        """Of all chips together, at most."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs over peak FLOPs, at most."""
        return self.model_flops / (self.seconds * self.devices * self.peak)


def bound(
    program: Program, mesh: MeshConfig, chip: Chip, topology: Topology | None, figures: Mapping[str, Any]
) -> Bound:
    """The bound of a program whose figures are those of `worker.run`."""
    received: dict[str, float] = {}
    for one in figures["collectives"]:
        received[one["axes"]] = received.get(one["axes"], 0.0) + one["received"]
    bandwidth = {axes: inflow(chip, topology, figures["network"][axes]) for axes in received}
    peak = metrics.peak_flops(figures["device_kind"])
    assert peak is not None, f"{chip.name} is in planning.chips and not in training.metrics"
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
    """By `CONVENTION`, of all chips together in one execution."""
    if isinstance(program, TrainProgram):
        context = (program.seq_len + 1) / 2
        per_token = metrics.flops_per_token(program.model, context, program.adapter, program.beside)
        return per_token * program.rows * program.seq_len
    return transformer.forward_flops_per_token(program.model, program.slots) * program.batch


def inflow(chip: Chip, topology: Topology | None, places: list[int]) -> float:
    """Bytes/s that can enter the worst placed chip of a group which takes so many places along each network axis.

    On an axis that is closed to a ring a chip has two neighbours; else one at an end has one.
    """
    if topology is None or not places:
        return chip.link_bandwidth
    shape, rings = (*topology.shape, 1)[:3], (*topology.rings, False)[:3]
    links = 0
    for taken, length, ring in zip(places, shape, rings, strict=True):
        links += 0 if taken == 1 else 2 if ring and taken == length else 1
    return chip.link_bandwidth * links


def traffic(program: Program, mesh: MeshConfig, held: Mapping[str, float]) -> dict[str, float]:
    """Bytes per chip between memory and arithmetic in one execution, by kind."""
    if isinstance(program, DecodeProgram):
        return {"weights": held["weights"], "caches": held["caches"]}
    model = program.model
    width = 2 if model.compute_dtype == "bfloat16" else 4
    tokens = program.rows * program.seq_len / (mesh.data * mesh.fsdp)
    ways = mesh.tensor
    heads, groups = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    matrices = [_sides_on_chip(row, model, mesh) for row in parameters.of_model(model) if row.is_layer_matrix]
    again = 1 if model.remat in ("full", "offload") else 0
    passes = 3 + again if program.adapter is None else 2 + again
    weights = sum(inputs * outputs for inputs, outputs in matrices)
    through = sum(inputs + outputs for inputs, outputs in matrices)
    # Queries, keys and values are read and their mixture written; once more, with its gradient, to go back.
    attention = (2 * heads + 2 * groups) / ways
    return {
        "weights": passes * width * program.micro_batches * (
            model.num_layers * weights + model.hidden_size * model.vocab_size / ways
        ),
        "activations": passes * width * tokens * model.num_layers * through,
        "attention": (3 + again) * width * tokens * model.num_layers * attention,
        # Scores over the vocabulary in float32: written and read to be normalised, and so again to go back.
        "loss": tokens * model.vocab_size / ways * 4 * 4,
        # Moments and parameters are read and written, the gradient is read.
        "optimizer": 2 * held["optimizer"] + 1.5 * held["optimizer"],
    }


def _sides_on_chip(row: Parameter, model: ModelConfig, mesh: MeshConfig) -> tuple[float, float]:
    """Returns the numbers of inputs and outputs of the part of a matrix by which one chip multiplies."""
    inputs, outputs = (
        size / (mesh.tensor if "tensor" in sharding.mesh_axes(axis) else 1)
        for size, axis in zip(row.side_sizes(model), row.sides, strict=True)
    )
    return inputs, outputs
