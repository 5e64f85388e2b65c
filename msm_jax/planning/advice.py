"""A search for changes that make a program fit in memory, from those that cost least to those that cost most."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msm_jax.errors import InputError
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.planning import phases
from msm_jax.planning.memory import Memory
from msm_jax.planning.programs import DecodeProgram, Job, Program
from msm_jax.training.program import TrainProgram

# From the policy that keeps most for the backward pass to the one that keeps least; "offload" is tried later.
_REMAT = ("none", "dots", "full")
_LORA = LoraConfig(64, 128.0)


@dataclass(frozen=True)
class Tried:
    """A change, as fields of the config, with the job and the memory that result."""

    change: str
    job: Job
    memory: Memory


def search(job: Job, measure: Callable[[Job, str], Memory]) -> list[Tried]:
    """Tries changes of a job that does not fit until one fits.

    Args:
        job: the job.
        measure: compiles a job and returns the memory that it needs; its second argument, the change, is for messages.

    Returns:
        The changes that were tried; if any fits, it is the last one.
    """
    tried: list[Tried] = []
    seen = {job}
    for change, other in changes(job):
        if other not in seen and _divides(other):
            seen.add(other)
            tried.append(Tried(change, other, measure(other, change)))
            if tried[-1].memory.fits:
                break
    return tried


def _divides(job: Job) -> bool:
    if isinstance(job.program, TrainProgram):
        try:
            phases.check_mesh("", job.program, job.mesh)
        except InputError:
            return False
    return True


def changes(job: Job) -> Iterator[tuple[str, Job]]:
    """Yields single changes first, then combinations of ever more of them."""
    single = [list(_of_kind(kind, job)) for kind in _KINDS]
    yield from (change for kind in single for change in kind)
    words: list[str] = []
    at = job
    for kind in _KINDS:
        # The last change of a kind saves most; among meshes the first one, if it splits the weights further by fsdp.
        found = list(_of_kind(kind, at))
        best = [each for each in found[:1] if each[1].mesh.fsdp > at.mesh.fsdp] if kind == "mesh" else found[-1:]
        for change, other in best:
            words, at = [*words, change], other
            yield " and ".join(words), other


def _of_kind(kind: str, job: Job) -> Iterator[tuple[str, Job]]:
    program = job.program
    if kind == "mesh":
        yield from _meshes(job, program)
    if not isinstance(program, TrainProgram):
        return
    model = program.model
    if kind == "remat" and model.remat in _REMAT:
        for remat in _REMAT[_REMAT.index(model.remat) + 1 :]:
            yield f'model_overrides.remat = "{remat}"', _replace(job, model=dataclasses.replace(model, remat=remat))
    if kind == "micro_batches":
        most = program.rows // (job.mesh.data * job.mesh.fsdp)
        for count in range(program.micro_batches + 1, most + 1):
            if most % count == 0:
                yield f"micro_batches = {count}", _replace(job, micro_batches=count)
    if kind == "offload" and model.remat != "offload":
        offloaded = dataclasses.replace(model, remat="offload")
        yield 'model_overrides.remat = "offload"', _replace(job, model=offloaded)
    if kind == "lora" and program.adapter is None:
        words = f"lora = {{rank: {_LORA.rank}, alpha: {_LORA.alpha:g}}} on a frozen base"
        yield words, _replace(job, adapter=_LORA)


_KINDS = ("remat", "micro_batches", "mesh", "offload", "lora")


def _meshes(job: Job, program: Program) -> Iterator[tuple[str, Job]]:
    """Yields meshes without a data axis, with ever more devices along the tensor axis."""
    devices = job.mesh.size
    if isinstance(program, DecodeProgram):
        rows = program.batch
    else:
        rows = program.rows // program.micro_batches
    for mesh in phases.meshes(devices, program.model, rows):
        if mesh.data == 1 and mesh != job.mesh:
            words = ", ".join(f"mesh.{name} = {ways}" for name, ways in dataclasses.asdict(mesh).items())
            yield words, dataclasses.replace(job, mesh=mesh)


def _replace(job: Job, **fields: object) -> Job:
    return dataclasses.replace(job, program=dataclasses.replace(job.program, **fields))  # type: ignore[arg-type]  # its own


def decode_mesh(program: DecodeProgram, devices: int) -> MeshConfig:
    """Returns the mesh for decoding: the tensor axis as long as key-value heads allow, the rest along the data axis."""
    choices = [mesh for mesh in phases.meshes(devices, program.model, program.batch) if mesh.fsdp == 1]
    return max(choices, key=lambda mesh: mesh.tensor, default=MeshConfig(fsdp=devices))
