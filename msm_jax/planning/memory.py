"""The memory that a program needs on a device, by kind, from what the compiler says about the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Memory:
    """The memory of one device, in bytes.

    Attributes:
        capacity: what programs may use; 0 if it is not known.
        needed: what arguments and program need together, from the compiler's own account.
        weights: the weights among the arguments, without the padding of tiles.
        optimizer: the optimizer state among the arguments, without padding.
        caches: the caches of keys and values among the arguments, without padding.
        batch: the batch among the arguments, without padding.
        padding: the padding of these arguments.
        activations: what the layers keep from the forward pass for the backward pass.
        temporaries: everything else: gradients, gathered weights, blocks of scores, memory of kernels, and code.
        host: what is needed in the host's memory, per device.
        host_capacity: the host's memory per device; 0 if it is not known.
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
        """The share of memory that stays free: negative if there is too little, None if the capacity is not known."""
        return (self.capacity - self.needed) / self.capacity if self.capacity else None

    @property
    def fits(self) -> bool:
        """Whether the memory of device and host suffices, as far as their capacities are known."""
        if self.host_capacity and self.host > self.host_capacity:
            return False
        return self.headroom is None or self.headroom >= 0

    def to_json(self) -> dict[str, Any]:
        """Returns all attributes in bytes, `headroom` and `fits`."""
        return {**dataclasses.asdict(self), "headroom": self.headroom, "fits": self.fits}


def account(figures: Mapping[str, Any], host_capacity: float = 0.0) -> Memory:
    """Returns the memory of a program from the figures that `compiler.Compiler.figures` returns.

    On TPUs, the sizes of program and arguments and the capacity are taken from the compiler's log, and elsewhere from
    its memory analysis. If the TPU compiler failed for lack of memory, its error message says how much is needed.

    Args:
        figures: the figures of the program.
        host_capacity: see `Memory`.
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
    # The compiler keeps less if it finds equal arrays, or arrays that are cheap to recompute.
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
