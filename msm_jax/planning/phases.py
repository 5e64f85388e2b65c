"""From phases to programs: what a phase compiles, known from its settings before its checkpoint is there."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax.checkpoints import adapters, compose, store
from msm_jax.checkpoints.adapters import Layer
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.presets import PRESETS, preset
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.training import program as program_lib
from msm_jax.training.config import PhaseConfig
from msm_jax.training.program import TrainProgram


@dataclass(frozen=True)
class Start:
    """What a phase starts from, as far as it decides the program: the model, and adapters on it, bottom first."""

    model: ModelConfig
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A phase in its place in an experiment, and how often it runs there (once per seed).

    `chain` has the phases from the first to this one; it is empty where there is no experiment.
    """

    config: PhaseConfig
    start: Start
    runs: int = 1
    chain: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the phase, after those that come before it."""
        return "/".join(self.chain) or self.config.name

    @property
    def program(self) -> TrainProgram:
        """Its train step."""
        config, layers = self.config, after(self.config, self.start).layers
        own = layers[-1].config if config.lora is not None else None
        beside = tuple(layer.config for layer in layers[:-1] if not layer.merged) if own is not None else ()
        return program_lib.of_phase(config, self.start.model, own, beside)

    @property
    def tokens(self) -> int:
        """Slots of all its runs, padding included."""
        return self.runs * self.config.steps * self.config.batch_rows * self.config.data.seq_len

    @property
    def steps(self) -> int:
        """Optimizer steps of all its runs."""
        return self.runs * self.config.steps


def start_of(config: PhaseConfig, model: str, vocabulary: int = 0) -> Start:
    """What a phase starts from.

    Args:
        config: the phase. model: the preset of a checkpoint that is not here; empty where it is.
        vocabulary: of a tokenizer that is not here, for a phase from scratch; 0 for the preset's own.

    Raises:
        InputError: the checkpoint is not here and no model was named, or there is no such preset.
    """
    if config.init.mode == "scratch":
        sizes = {"vocab_size": vocabulary} if vocabulary else {}
        if Path(config.tokenizer).is_dir():
            sizes = {"vocab_size": Tokenizer.load(config.tokenizer).vocab_size}
        return Start(preset(config.preset, **{**sizes, **config.model_overrides}))
    path = Path(config.init.checkpoint)
    if path.exists():
        checkpoint = store.resolve(path)
        info = store.read_info(checkpoint)
        stack = adapters.read(info, checkpoint)
        found = compose.model_config(info, checkpoint)
        return Start(found.overridden(config.model_overrides), () if stack is None else stack.layers)
    if not model:
        raise InputError(
            f"init.checkpoint = {config.init.checkpoint!r} is not there, so that the model is not known; "
            f"name its preset with --model, one of {', '.join(PRESETS)}"
        )
    return Start(preset(model).overridden(config.model_overrides))


def follow(config: PhaseConfig, start: Start) -> Start:
    """What a phase starts from whose parent ended with `start`."""
    return dataclasses.replace(start, model=start.model.overridden(config.model_overrides))


def after(config: PhaseConfig, start: Start) -> Start:
    """What the next phase starts from; as `training.origin` decides it, without the checkpoint."""
    if config.lora is None:
        return Start(start.model)
    own = Layer(config.lora)
    if not start.layers or config.adapter == "continue":
        return Start(start.model, (*start.layers[:-1], own))
    merged = config.adapter == "merge"
    below = tuple(dataclasses.replace(layer, merged=merged or layer.merged) for layer in start.layers)
    return Start(start.model, (*below, own))


def check(config: PhaseConfig, program: TrainProgram, devices: int, where: str) -> None:
    """Refuses what cannot be built, before anything is compiled.

    Args:
        config: of the phase. program: its train step. devices: that there are. where: what has them, for the message.

    Raises:
        InputError: the rows are too long for the model, the mesh does not take all devices, or it does not divide the
            batch or a dimension of a parameter; with the nearest choice that does.
    """
    model, mesh = program.model, config.mesh
    if program.seq_len > model.max_position_embeddings:
        raise InputError(
            f"{config.name}: data.seq_len = {program.seq_len} is above the model's max_position_embeddings = "
            f"{model.max_position_embeddings}; lower it to at most that"
        )
    if mesh.size != devices:
        near = nearest_mesh(mesh, devices, model, program.rows // program.micro_batches)
        raise InputError(
            f"{config.name}: mesh {describe(mesh)} is of {mesh.size} and {where} has {devices}; "
            f"the nearest mesh that fits: {describe(near)}{_rows(near, program)}"
        )
    check_mesh(config.name, program, mesh)


def check_mesh(name: str, program: TrainProgram, mesh: MeshConfig) -> None:
    """Refuses a mesh that does not divide the rows of a micro-batch or a dimension of a parameter."""
    rows, ways = program.rows // program.micro_batches, mesh.data * mesh.fsdp
    if rows % ways:
        raise InputError(
            f"{name}: {rows} rows of a micro-batch do not divide over data × fsdp = {ways}; the nearest batch_rows: "
            f"{_nearest_rows(mesh, program)}"
        )
    # Shapes do not depend on how a model is run, but what cannot run here would be said.
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
    """The meshes of so many devices that divide the model and a micro-batch of so many rows."""
    common = math.gcd(model.num_heads, model.num_kv_heads, model.intermediate_size, model.vocab_size)
    found = []
    for tensor in (n for n in range(1, devices + 1) if devices % n == 0 and common % n == 0):
        for data in (n for n in range(1, devices // tensor + 1) if devices // tensor % n == 0):
            fsdp = devices // tensor // data
            if rows % (data * fsdp) == 0 and model.hidden_size % fsdp == 0:
                found.append(MeshConfig(data, fsdp, tensor))
    return found


def nearest_mesh(mesh: MeshConfig, devices: int, model: ModelConfig, rows: int) -> MeshConfig:
    """The mesh of so many devices that divides model and rows and is most like `mesh`; by fsdp alone where none is."""

    def distance(other: MeshConfig) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(mesh.shape, other.shape, strict=True))

    return min(meshes(devices, model, rows), key=distance, default=MeshConfig(fsdp=devices))


def describe(mesh: MeshConfig) -> str:
    """The mesh in the words of a config's `mesh`."""
    return ", ".join(f"{name}={ways}" for name, ways in dataclasses.asdict(mesh).items())


def _nearest_rows(mesh: MeshConfig, program: TrainProgram) -> int:
    """The batch_rows next to a program's whose micro-batches a mesh divides."""
    step = mesh.data * mesh.fsdp * program.micro_batches
    return max(1, round(program.rows / step)) * step


def _rows(mesh: MeshConfig, program: TrainProgram) -> str:
    rows = _nearest_rows(mesh, program)
    return "" if rows == program.rows else f" with batch_rows={rows}"
