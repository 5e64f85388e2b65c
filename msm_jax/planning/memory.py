"""How a device's memory is taken, by kind, from what the compiler says of a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        capacity: what programs may take; 0 where that is not known.
        needed: by arguments and program together, from the compiler's own account.
        weights, optimizer, caches, batch: what the program is given, without the padding of tiles.
        padding: of those. activations: kept by the layers from the forward pass for the backward pass.
        temporaries: all else: gradients, gathered weights, blocks of scores, what kernels and code take.
        host: in the host's memory, per device. host_capacity: what there is of that; 0 where it is not known.
    """

    capacity: float
    needed: float
    weights: float
    optimizer: float
    caches: float
    batch: float
    padding: float
    activations: float
    temporaries: float
    host: float
    host_capacity: float = 0.0

    @property
    def headroom(self) -> float | None:
        """The share of memory that stays free; below 0 where it does not suffice, None where capacity is not known."""
        return (self.capacity - self.needed) / self.capacity if self.capacity else None

    @property
    def fits(self) -> bool:
        """Whether both suffice, as far as that is known."""
        if self.host_capacity and self.host > self.host_capacity:
            return False
        return self.headroom is None or self.headroom >= 0

    def to_json(self) -> dict[str, Any]:
        """All of it, in bytes."""
        return {**dataclasses.asdict(self), "headroom": self.headroom, "fits": self.fits}


def account(figures: Mapping[str, Any], host_capacity: float = 0.0) -> Memory:
    """The memory of a program whose figures are those of `compiler.Compiler.figures`; of the host see `Memory`.

    On TPUs program, arguments and capacity stand in the compiler's log; elsewhere in its memory analysis. Where TPU's
    compiler gave up, its message has the need.
    """
    held, log, analysis = figures["held"], figures["log"], figures.get("analysis")
    given = sum(held.values())
    host = float(analysis["host_temp_size_in_bytes"]) if analysis else 0.0
    if "program" in log:
        capacity, arguments = log["cap"], log["arguments"]
        needed = log["program"] + arguments
    elif analysis is not None:
        capacity, arguments = figures["capacity"], float(analysis["argument_size_in_bytes"])
        needed = arguments + analysis["temp_size_in_bytes"] + analysis["generated_code_size_in_bytes"]
        needed += analysis["output_size_in_bytes"] - analysis["alias_size_in_bytes"]
    else:
        capacity, arguments, needed = log["cap"], given, log["needed"]
    # The compiler keeps less where it finds what is equal or soon computed anew.
    activations = min(max(0.0, figures["kept"] - host), needed - arguments)
    return Memory(
        capacity=capacity,
        needed=needed,
        weights=held["weights"],
        optimizer=held.get("optimizer", 0.0),
        caches=held.get("caches", 0.0),
        batch=held.get("batch", 0.0),
        padding=max(0.0, arguments - given),
        activations=activations,
        temporaries=max(0.0, needed - arguments - activations),
        host=host,
        host_capacity=host_capacity,
    )
