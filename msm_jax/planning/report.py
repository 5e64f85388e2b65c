"""Tables of a plan for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from msm_jax.planning import plan as plan_lib
from msm_jax.planning import roofline
from msm_jax.planning.chips import GIB
from msm_jax.planning.plan import Measured, Plan
from msm_jax.planning.roofline import Bound
from msm_jax.training.program import TrainProgram

_KINDS = ("weights", "optimizer", "caches", "batch", "padding", "activations", "temporaries")


def render(plan: Plan) -> Iterator[RenderableType]:
    """Yields the lines and tables of a plan from top to bottom."""
    topology = plan.topology
    if topology is None:
        yield f"{plan.name} on this machine"
    else:
        yield f"{plan.name} on {topology.name}: {topology.chips} chips"
    for one in plan.measured:
        yield ""
        yield from _program(one)
    yield ""
    yield _phases(plan)
    yield ""
    yield roofline.CONVENTION


def headroom(one: Measured) -> str:
    """Returns the line that says which share of memory is left, rounded down."""
    share = one.memory.headroom
    return "headroom: unknown" if share is None else f"headroom: {math.floor(100 * share)} %"


def _program(one: Measured) -> Iterator[RenderableType]:
    yield f"{plan_lib.title(one.job)} ({', '.join(one.phases)})"
    yield _memory(one)
    yield headroom(one)
    if not one.memory.fits:
        yield from _advice(one)
    if one.job.topology and isinstance(one.job.program, TrainProgram) and not one.figures["flops"]["kernels"]:
        yield "attention runs without a kernel and keeps a score for every pair of tokens in a row"
    if one.bound is not None:
        yield from _bound(one, one.bound)


def _memory(one: Measured) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("GiB a chip", ""):
        table.add_column(name, justify="right" if not name else "left")
    memory = one.memory
    sizes = [(kind, getattr(memory, kind)) for kind in _KINDS]
    sizes += [("needed", memory.needed), ("available", memory.capacity)]
    sizes += [("on the host", memory.host), ("available", memory.host and memory.host_capacity)]
    for name, size in sizes:
        if size:
            table.add_row(f"  {name}", _gib(size))
    return table


def _advice(one: Measured) -> Iterator[RenderableType]:
    yield "does not fit; tried:"
    for each in one.tried:
        share = each.memory.headroom
        told = "" if share is None else f" ({math.floor(100 * share)} %)"
        yield f"  {each.change}: {'fits' if each.memory.fits else 'does not fit'}{told}"
    if not one.tried or not one.tried[-1].memory.fits:
        yield "  no change that was tried fits; use more chips, shorter rows or fewer rows"


def _bound(one: Measured, bound: Bound) -> Iterator[RenderableType]:
    if bound.link_bytes:
        yield _links(one, bound)
    times = [("arithmetic", bound.arithmetic), ("memory", bound.memory)]
    times += [(f"links over {axes}", seconds) for axes, seconds in bound.links.items()]
    yield "a step takes at least " + ", ".join(f"{_time(seconds)} by {name}" for name, seconds in times)
    unit = "trains on" if isinstance(one.job.program, TrainProgram) else "draws"
    yield (
        f"bound by {bound.binds}: {_time(bound.seconds)} a step, {unit} at most {bound.tokens_per_second:,.0f} "
        f"tokens/s, MFU at most {100 * bound.mfu:.1f} %"
    )
    yield f"{bound.model_flops:.4g} model FLOPs a step, {bound.hardware_flops:.4g} in hardware"
    reduced = all_reduced(one, bound)
    if reduced and isinstance(one.job.program, TrainProgram):
        yield (
            f"of that, all-reduces over fsdp (gradients, and small all-gathers that the compiler replaced) take "
            f"{_time(reduced)}; as reduce-scatters and all-gathers they would take half"
        )


def all_reduced(one: Measured, bound: Bound) -> float:
    """Returns the least seconds of all-reduces over fsdp, twice what reduce-scatters or all-gathers would take."""
    return sum(
        each["received"] / bound.link_bandwidth[each["axes"]]
        for each in one.figures["collectives"]
        if each["kind"] == "all-reduce" and "fsdp" in each["axes"] and each["bytes"] > 2**20
    )


def _links(one: Measured, bound: Bound) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("collectives", "over", "runs", "GB received", "at least"):
        table.add_column(name, justify="left" if name in ("collectives", "over") else "right")
    totals: dict[tuple[str, str], list[float]] = {}
    for each in one.figures["collectives"]:
        total = totals.setdefault((each["kind"], each["axes"]), [0, 0.0])
        total[0] += each["trips"]
        total[1] += each["received"]
    for (kind, axes), (runs, received) in totals.items():
        seconds = received / bound.link_bandwidth[axes]
        table.add_row(f"  {kind}", axes, f"{runs:,.0f}", f"{received / 1e9:,.3f}", _time(seconds))
    return table


def _phases(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("phase", "runs", "tokens", "optimizer steps", "hours, at least", "cost, at least"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in plan.planned:
        times = _blank(plan.seconds(phase), 3600), _blank(plan.cost(phase))
        table.add_row(phase.name, str(phase.runs), f"{phase.tokens:,}", f"{phase.steps:,}", *times)
    if len(plan.planned) > 1:
        tokens, steps = sum(each.tokens for each in plan.planned), sum(each.steps for each in plan.planned)
        hours = _blank(_sum([plan.seconds(each) for each in plan.planned]), 3600)
        cost = _blank(_sum([plan.cost(each) for each in plan.planned]))
        table.add_row("all", "", f"{tokens:,}", f"{steps:,}", hours, cost)
    return table


def _sum(values: Sequence[float | None]) -> float | None:
    """Returns the sum, None where one of the values is not known."""
    return None if None in values else sum(value for value in values if value is not None)


def _blank(value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else f"{value / unit:,.2f}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}" if size >= GIB / 100 else f"{size / GIB:.2g}"


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1000 * seconds:,.3g} ms"
