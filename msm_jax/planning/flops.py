"""Floating-point operations of a traced program: the matrix products in the jaxpr that JAX gives to the compiler.

The compiler's own `cost_analysis` counts the body of a loop once, and a Pallas kernel as zero. Here, a product in a
`scan` counts once per iteration, a recomputed product counts again, and a product whose result is not used does not
count. Only matrix products are counted, since other operations use other units or take little time. A multiply-add
counts as two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core


@dataclass(frozen=True)
class Flops:
    """The operations of all devices together, in matrix products and in attention kernels."""

    products: float = 0.0
    kernels: float = 0.0

    @property
    def total(self) -> float:
        """The operations of matrix products and kernels together."""
        return self.products + self.kernels

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.products + other.products, self.kernels + other.kernels)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.products * times, self.kernels * times)


def count(program: core.ClosedJaxpr) -> Flops:
    """Returns the operations of one execution; a `while` loop, whose trips depend on the data, counts as one trip."""
    return _count(program.jaxpr, [True] * len(program.jaxpr.outvars))


def _count(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> Flops:
    """Returns the operations of a program that are needed for its `wanted` outputs."""
    used = {var for var, want in zip(jaxpr.outvars, wanted, strict=True) if want and not isinstance(var, core.Literal)}
    total = Flops()
    for eqn in reversed(jaxpr.eqns):
        mask = [var in used for var in eqn.outvars]
        if not any(mask) and not eqn.effects:
            continue
        used.update(var for var in eqn.invars if not isinstance(var, core.Literal))
        total = total + _of(eqn, mask)
    return total


def _of(eqn: core.JaxprEqn, wanted: Sequence[bool]) -> Flops:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        ((contracted, _), _) = params["dimension_numbers"]
        depth = math.prod(_shape(eqn.invars[0])[axis] for axis in contracted)
        return Flops(products=2.0 * math.prod(_shape(eqn.outvars[0])) * depth)
    if name == "pallas_call":
        return Flops(kernels=_kernel(params))
    if name.startswith("dot_product_attention"):
        return Flops(kernels=_cudnn(eqn))
    if name == "scan":
        return _whole(params["jaxpr"]) * params["length"]
    if name == "shard_map":
        # Inside it, the shapes are those of one device's part.
        return _count(_open(params["jaxpr"]), wanted) * params["mesh"].size
    if name == "cond":
        return max((_count(_open(branch), wanted) for branch in params["branches"]), key=lambda found: found.total)
    inner = list(_programs(params))
    if len(inner) == 1 and len(_open(inner[0]).outvars) == len(wanted):
        return _count(_open(inner[0]), wanted)
    return sum((_whole(each) for each in inner), Flops())


def _kernel(params: Mapping[str, Any]) -> float:
    """Returns the operations of a causal attention kernel, which skips the blocks beyond the diagonal.

    The last axis of its grid goes over the blocks of a row.
    """
    grid = params["grid_mapping"].grid
    blocks = grid[-1]
    return _whole(params["jaxpr"]).total * math.prod(grid) * (blocks + 1) / (2 * blocks)


def _cudnn(eqn: core.JaxprEqn) -> float:
    """Returns the operations of cuDNN's causal attention: two products of all pairs forward, and five backward."""
    batch, queries, heads, size = _shape(eqn.invars[0])
    keys = _shape(eqn.invars[1])[1]
    products = 2 if "fwd" in eqn.primitive.name else 5
    return products * 2.0 * batch * heads * queries * keys * size / 2


def _shape(variable: core.Var | core.Literal) -> tuple[int, ...]:
    return variable.aval.shape  # type: ignore[attr-defined]  # only arrays reach this


def _whole(program: core.Jaxpr | core.ClosedJaxpr) -> Flops:
    return _count(_open(program), [True] * len(_open(program).outvars))


def _open(program: core.Jaxpr | core.ClosedJaxpr) -> core.Jaxpr:
    return program.jaxpr if isinstance(program, core.ClosedJaxpr) else program


def _programs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr | core.ClosedJaxpr]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, (core.Jaxpr, core.ClosedJaxpr)):
                yield each
