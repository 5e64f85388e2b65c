"""A plan: the programs of some phases, measured without running them, and the time and cost that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msm_jax.errors import InputError
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.planning import advice, chips, memory, phases, roofline
from msm_jax.planning.advice import Tried
from msm_jax.planning.chips import Chip
from msm_jax.planning.compiler import Compiler
from msm_jax.planning.memory import Memory
from msm_jax.planning.phases import Planned
from msm_jax.planning.programs import DecodeProgram, Job, Program
from msm_jax.planning.roofline import Bound
from msm_jax.planning.topology import Topology
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.program import TrainProgram

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measured:
    """A program and its measurements.

    Attributes:
        job: the program on its mesh.
        phases: the names of the phases that run it.
        figures: what `Compiler.figures` returns.
        memory: what it needs per device.
        bound: the least time of a step; None where the chip is not known or nothing was compiled.
        tried: the changes that were tried because the program does not fit.
    """

    job: Job
    phases: tuple[str, ...]
    figures: Mapping[str, Any]
    memory: Memory
    bound: Bound | None
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A plan of phases on a topology.

    Attributes:
        name: the name of the phase or experiment.
        topology: the slice; None for the devices of this machine.
        planned: the phases.
        measured: their programs.
        versions: the versions of the libraries that compiled them.
        price: the price in the user's currency per chip and hour, None where none was given.
    """

    name: str
    topology: Topology | None
    planned: tuple[Planned, ...]
    measured: tuple[Measured, ...]
    versions: Mapping[str, str]
    price: float | None

    @property
    def fits(self) -> bool:
        """Whether every program fits in memory."""
        return all(one.memory.fits for one in self.measured)

    def seconds(self, phase: Planned) -> float | None:
        """Returns the least time of all runs of a phase in seconds, None without a bound."""
        job = train_job(phase, self.topology)
        bound = next(one.bound for one in self.measured if one.job == job)
        return None if bound is None else bound.seconds * phase.steps

    def cost(self, phase: Planned) -> float | None:
        """Returns the least cost of all runs of a phase, None without a price or a bound."""
        seconds = self.seconds(phase)
        if self.price is None or seconds is None:
            return None
        return seconds / 3600 * phase.config.mesh.size * self.price


def train_job(phase: Planned, topology: Topology | None) -> Job:
    """Returns the train step as it is measured: with a fixed rate and number of steps, so that phases share it."""
    program = dataclasses.replace(phase.program, optimizer=OptimizerConfig(1e-4), steps=1000)
    return Job(program, phase.config.mesh, topology.name if topology else "")


def jobs(
    planned: Sequence[Planned], topology: Topology | None, devices: int, decode: tuple[int, int] | None
) -> dict[Job, list[str]]:
    """Returns the programs of some phases, each with the names of the phases that run it; compiles nothing.

    Args:
        planned: the phases.
        topology: the slice; None for the devices of this machine.
        devices: the number of devices.
        decode: rows and slots of the decode step; None leaves it out.

    Raises:
        InputError: a phase cannot be built on its mesh, or the model has fewer positions than the decode step slots.
    """
    where = topology.name if topology else "this machine"
    found: dict[Job, list[str]] = {}
    for phase in planned:
        phases.check(phase.config, phase.program, devices, where)
        found.setdefault(train_job(phase, topology), []).append(phase.name)
    for phase in planned if decode is not None else ():
        assert decode is not None
        found.setdefault(_decode_job(phase, topology, devices, *decode), []).append(phase.name)
    return found


def make(
    name: str,
    planned: Sequence[Planned],
    topology: Topology | None,
    programs: Mapping[Job, Sequence[str]],
    compiler: Compiler,
    price: float | None,
    say: Callable[[str], None],
) -> Plan:
    """Measures programs, and where one does not fit, searches for a change that does.

    Args:
        name: the name of the plan.
        planned: its phases.
        topology: the slice; None for the devices of this machine.
        programs: the programs that `jobs` returns.
        compiler: measures them.
        price: the price per chip and hour.
        say: called with the title of each program before it is compiled.

    Raises:
        WorkError: the compiler failed.
    """

    def measure(job: Job, change: str = "") -> tuple[Mapping[str, Any], Memory]:
        figures = compiler.figures(job, lambda: say(f"{title(job)}{f', {change}' if change else ''}"))
        chip = _chip(topology, figures)
        return figures, memory.account(figures, chip.host_bytes if chip else 0.0)

    measured = []
    for job, names in programs.items():
        figures, taken = measure(job)
        tried = () if taken.fits else tuple(advice.search(job, lambda other, change: measure(other, change)[1]))
        chip, bound = _chip(topology, figures), None
        if chip is not None and "collectives" in figures:
            bound = roofline.bound(job.program, job.mesh, chip, topology, figures)
        measured.append(Measured(job, tuple(names), figures, taken, bound, tried))
    return Plan(name, topology, tuple(planned), tuple(measured), compiler.versions, price)


def _chip(topology: Topology | None, figures: Mapping[str, Any]) -> Chip | None:
    return topology.chip if topology else chips.of_kind(figures["device_kind"])


def _decode_job(phase: Planned, topology: Topology | None, devices: int, rows: int, slots: int) -> Job:
    model = phase.program.model
    if slots > model.max_position_embeddings:
        raise InputError(
            f"{phase.config.name}: --decode_slots={slots} is above the model's max_position_embeddings = "
            f"{model.max_position_embeddings}; lower it to at most that"
        )
    beside = tuple(each.config for each in phase.start.adapters if not each.merged)
    program = DecodeProgram(dataclasses.replace(model, remat="none"), rows, slots, beside)
    return Job(program, advice.decode_mesh(program, devices), topology.name if topology else "")


def title(job: Job) -> str:
    """Returns a title of the program."""
    program, model = job.program, job.program.model
    mesh = ", ".join(f"{name} {ways}" for name, ways in dataclasses.asdict(job.mesh).items() if ways > 1) or "1 device"
    if isinstance(program, DecodeProgram):
        return f"decode step: {program.batch} rows, {program.slots:,} slots each; {mesh}"
    what = "all weights" if program.adapter is None else f"LoRA of rank {program.adapter.rank}"
    parts = f" in {program.micro_batches} micro-batches" if program.micro_batches > 1 else ""
    what += f", {program.objective.words}" if program.objective.words else ""
    return f"train step: {program.rows} × {program.seq_len:,} tokens{parts}, {what}, remat {model.remat}; {mesh}"


def to_json(plan: Plan) -> dict[str, Any]:
    """Returns all figures, with those that they follow from, in bytes, seconds and FLOPs."""
    topology = plan.topology
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "fits": plan.fits,
        "topology": None if topology is None else {
            "name": topology.name, "chips": topology.chips, "shape": topology.shape, "rings": topology.rings,
            "chip": dataclasses.asdict(topology.chip),
        },
        "versions": dict(plan.versions),
        "convention": roofline.CONVENTION,
        "phases": [
            {
                "name": phase.name, "runs": phase.runs, "tokens": phase.tokens, "optimizer_steps": phase.steps,
                "seconds_at_least": plan.seconds(phase), "cost_at_least": plan.cost(phase),
            }
            for phase in plan.planned
        ],
        "price_per_chip_hour": plan.price,
        "programs": [_program(one) for one in plan.measured],
    }


def _program(one: Measured) -> dict[str, Any]:
    figures = one.figures
    return {
        "title": title(one.job),
        "kind": "train" if isinstance(one.job.program, TrainProgram) else "decode",
        "phases": one.phases,
        **_settings(one.job.program, one.job.mesh),
        "memory": one.memory.to_json(),
        "flops": {"model": roofline.model_flops(one.job.program), "hardware": figures["flops"]},
        "collectives": figures.get("collectives", []),
        "bound": None if one.bound is None else {
            **dataclasses.asdict(one.bound), "seconds": one.bound.seconds, "binds": one.bound.binds,
            "tokens_per_second": one.bound.tokens_per_second, "mfu": one.bound.mfu,
        },
        **{name: figures[name] for name in ("trace_seconds", "compile_seconds", "cpu_seconds")},
        "tried": [{"change": each.change, **each.memory.to_json()} for each in one.tried],
    }


def _settings(program: Program, mesh: MeshConfig) -> dict[str, Any]:
    fields = dataclasses.asdict(program)
    fields.pop("optimizer", None)
    fields.pop("steps", None)
    return {"program": fields, "mesh": dataclasses.asdict(mesh)}
