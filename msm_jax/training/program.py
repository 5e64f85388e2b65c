"""The train step of a phase as a program, which is built from shapes alone, also for devices that do not exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel import sharding
from msm_jax.training import optimizer, state, step
from msm_jax.training.config import OptimizerConfig, PhaseConfig
from msm_jax.training.objective import NEXT_TOKEN, NextToken, Objective
from msm_jax.training.preference import Preference
from msm_jax.training.state import Frozen, TrainState

# Objectives by their names in JSON.
OBJECTIVES: dict[str, type[Objective]] = {each.name: each for each in (NextToken, Preference)}


@dataclass(frozen=True)
class TrainProgram:
    """Everything that decides the compiled train step, except the mesh.

    Attributes:
        model: the shape of the model, and how it is run.
        optimizer, steps: they decide the schedule, which is compiled in.
        rows: the rows of a batch, which is cut into `micro_batches` parts.
        seq_len: the slots of a row.
        adapter: the adapter that is trained; None where all weights are.
        beside: the frozen adapters that are applied beside the base.
        base_dtype: the dtype of the frozen weights.
        objective: what is optimised.
    """

    model: ModelConfig
    optimizer: OptimizerConfig
    steps: int
    rows: int
    seq_len: int
    micro_batches: int = 1
    adapter: LoraConfig | None = None
    beside: tuple[LoraConfig, ...] = ()
    base_dtype: str = "bfloat16"
    objective: Objective = NEXT_TOKEN

    @property
    def adamw(self) -> optax.GradientTransformation:
        """The optimizer with its schedule."""
        return optimizer.make_optimizer(self.optimizer, self.steps)


def of_phase(
    config: PhaseConfig, model: ModelConfig, adapter: LoraConfig | None, beside: tuple[LoraConfig, ...]
) -> TrainProgram:
    """Returns the train step of a phase on a model, with the adapter that it trains and the frozen ones beside it."""
    return TrainProgram(
        model, config.optimizer, config.steps, config.batch_rows, config.data.seq_len, config.micro_batches, adapter,
        beside, config.base_dtype, config.objective,
    )


def abstract_frozen(program: TrainProgram, mesh: Mesh) -> Frozen | None:
    """Returns the frozen weights as ShapeDtypeStructs with shardings, None where all weights are trained."""
    if program.adapter is None:
        return None
    return state.abstract_frozen(program.model, mesh, program.base_dtype, program.beside)


def arguments(
    program: TrainProgram, mesh: Mesh
) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct], Frozen | None]:
    """Returns the arguments of the train step (state, batch, frozen weights) as ShapeDtypeStructs with shardings.

    Raises:
        InputError: the mesh does not divide a dimension of a parameter.
    """
    where = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((program.rows, program.seq_len), dtype, sharding=where)
        for name, dtype in program.objective.fields.items()
    }
    first = state.abstract(program.model, program.adamw, mesh, program.adapter)
    return first, batch, abstract_frozen(program, mesh)


def trace(program: TrainProgram, mesh: Mesh) -> jax.stages.Traced:
    """Traces the train step, to be lowered and compiled for the devices of `mesh`.

    If these devices do not exist, no mesh may be set, or JAX would place other computations on them.
    """
    first, batch, frozen = arguments(program, mesh)
    schedule = optimizer.schedule(program.optimizer, program.steps)
    train_step: Any = step.make_train_step(
        program.model, program.adamw, schedule, mesh, program.micro_batches, program.adapter,
        frozen, program.objective,
    )
    with jax.set_mesh(mesh):
        return train_step.trace(first, batch, frozen)
