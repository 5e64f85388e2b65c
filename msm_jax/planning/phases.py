"""From phases to programs: what a phase compiles, which follows from its settings before its checkpoint exists."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.presets import PRESETS, preset
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.training import origin
from msm_jax.training import program as program_lib
from msm_jax.training.config import PhaseConfig
from msm_jax.training.program import TrainProgram
from msm_jax.training.start import Parent, Start


@dataclass(frozen=True)
class Planned:
    """A phase in its place in an experiment.

    Attributes:
        config: the phase.
        start: how it starts.
        runs: how often it runs, once per seed.
        chain: the phases from the first to this one; empty outside an experiment.
    """

    config: PhaseConfig
    start: Start
    runs: int = 1
    chain: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The names of the phases of the chain, joined by slashes."""
        return "/".join(self.chain) or self.config.name

    @property
    def program(self) -> TrainProgram:
        """The train step of the phase."""
        assert self.start.model is not None, "the model is always known in a plan"
        return program_lib.of_phase(self.config, self.start.model, self.start.adapter, self.start.beside)

    @property
    def tokens(self) -> int:
        """The number of slots of all runs, padding included."""
        return self.runs * self.config.steps * self.config.batch_rows * self.config.data.seq_len

    @property
    def steps(self) -> int:
        """The number of optimizer steps of all runs."""
        return self.runs * self.config.steps


def parent_of(config: PhaseConfig, model: str, vocabulary: int = 0) -> Parent:
    """Returns what a phase without a phase before it starts from, as far as it exists.

    Args:
        config: the phase.
        model: the preset of a checkpoint that does not exist yet, which is taken to hold a model's own weights; not
            used where the checkpoint exists.
        vocabulary: the number of ids of a tokenizer that does not exist yet, for a phase from scratch; 0 for the
            preset's own.

    Raises:
        InputError: the checkpoint does not exist and no model is named, or no preset has that name.
    """
    if config.init.mode == "scratch":
        if Path(config.tokenizer).is_dir():
            return origin.read(config)
        return Parent(config.tokenizer, adapters=(), vocab_size=vocabulary or None)
    if Path(config.init.checkpoint).exists():
        return origin.read(config)
    if not model:
        raise InputError(
            f"init.checkpoint = {config.init.checkpoint!r} does not exist, so the model is not known; "
            f"name its preset with --model, one of {', '.join(PRESETS)}"
        )
    return Parent(config.init.checkpoint, preset(model), ())


def check(config: PhaseConfig, program: TrainProgram, devices: int, where: str) -> None:
    """Refuses what cannot be built, before anything is compiled.

    Args:
        config: the phase.
        program: its train step.
        devices: the number of devices that exist.
        where: the machine or slice that has them, for the message.

    Raises:
        InputError: the mesh does not use all devices, or does not divide the batch or a dimension of a parameter; the
            message names the nearest choice that does.
    """
    model, mesh = program.model, config.mesh
    if mesh.size != devices:
        near = nearest_mesh(mesh, devices, model, program.rows // program.micro_batches)
        raise InputError(
            f"{config.name}: mesh {describe(mesh)} has {mesh.size} devices, but {where} has {devices}; "
            f"the nearest mesh that fits: {describe(near)}{_rows(near, program)}"
        )
    check_mesh(config.name, program, mesh)


def check_mesh(name: str, program: TrainProgram, mesh: MeshConfig) -> None:
    """Refuses a mesh that does not divide the rows of a micro-batch or a dimension of a parameter; see `check`."""
    rows, ways = program.rows // program.micro_batches, mesh.data * mesh.fsdp
    if rows % ways:
        raise InputError(
            f"{name}: {rows} rows of a micro-batch cannot be split over data × fsdp = {ways}; the nearest batch_rows: "
            f"{_nearest_rows(mesh, program)}"
        )
    # Shapes do not depend on remat and attention, but values that cannot run on this machine would be refused.
    tree = transformer.abstract_params(dataclasses.replace(program.model, remat="none", attention="reference"))
    trees = [(tree, transformer.logical_axes(tree))]
    for adapter in (*program.beside, *([program.adapter] if program.adapter else [])):
        trees.append((tree := lora.abstract_weights(adapter, program.model), lora.logical_axes(tree)))
    try:
        for tree, axes in trees:
            _check_tree(axes, tree, mesh)
    except InputError as error:
        near = nearest_mesh(mesh, mesh.size, program.model, rows)
        raise InputError(f"{name}: {error}; the nearest mesh: {describe(near)}{_rows(near, program)}") from error


def _check_tree(axes: Any, tree: Any, mesh: MeshConfig) -> None:
    if isinstance(tree, dict):
        for name, branch in tree.items():
            _check_tree(axes[name], branch, mesh)
    else:
        sharding.check_divides(axes, tree.shape, dataclasses.asdict(mesh))


def meshes(devices: int, model: ModelConfig, rows: int) -> list[MeshConfig]:
    """Returns the meshes of `devices` devices that divide the model and a micro-batch of `rows` rows."""
    common = math.gcd(model.num_heads, model.num_kv_heads, model.intermediate_size, model.vocab_size)
    found = []
    for tensor in (n for n in range(1, devices + 1) if devices % n == 0 and common % n == 0):
        for data in (n for n in range(1, devices // tensor + 1) if devices // tensor % n == 0):
            fsdp = devices // tensor // data
            if rows % (data * fsdp) == 0 and model.hidden_size % fsdp == 0:
                found.append(MeshConfig(data, fsdp, tensor))
    return found


def nearest_mesh(mesh: MeshConfig, devices: int, model: ModelConfig, rows: int) -> MeshConfig:
    """Returns the mesh most like `mesh` that divides model and rows; one along fsdp alone where none does."""

    def distance(other: MeshConfig) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(mesh.shape, other.shape, strict=True))

    return min(meshes(devices, model, rows), key=distance, default=MeshConfig(fsdp=devices))


def describe(mesh: MeshConfig) -> str:
    """Returns the mesh as a config's `mesh` names it: "data=1, fsdp=4, tensor=1"."""
    return ", ".join(f"{name}={ways}" for name, ways in dataclasses.asdict(mesh).items())


def _nearest_rows(mesh: MeshConfig, program: TrainProgram) -> int:
    """Returns the batch_rows nearest to a program's for which the mesh divides a micro-batch."""
    step = mesh.data * mesh.fsdp * program.micro_batches
    return max(1, round(program.rows / step)) * step


def _rows(mesh: MeshConfig, program: TrainProgram) -> str:
    rows = _nearest_rows(mesh, program)
    return "" if rows == program.rows else f" with batch_rows={rows}"
