"""TPU slices by name, such as v5e:8x8: the kind of chip, the shape, and which axes of the network are rings."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from msm_jax.errors import InputError
from msm_jax.planning.chips import TPUS, Chip

# Slices that Google Cloud offers: all two-dimensional ones, and the three-dimensional ones below a cube of 4x4x4.
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e", "v6": "v6e", "trillium": "v6e", "v5": "v5p"}


@dataclass(frozen=True)
class Topology:
    """A slice of TPU chips; `shape` counts them along each axis of the network."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name that `parse` accepts."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """The number of chips, each of which is one JAX device."""
        return math.prod(self.shape)

    @property
    def rings(self) -> tuple[bool, ...]:
        """Which axes are rings: in two dimensions those of length 16; in three all, if 4 divides every length."""
        ring = self.chip.ring
        if self.chip.dimensions == 3:
            return (all(length % ring == 0 for length in self.shape),) * 3
        return tuple(length % ring == 0 for length in self.shape)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `jax.experimental.topologies.get_topology_desc` besides the name."""
        found: dict[str, Any] = {"wrap": (*self.rings, False)[:3]} if any(self.rings) else {}
        if self.shape == (1, 1):
            found["chips_per_host_bounds"] = (1, 1, 1)
        if self.chip.name == "v4":
            # Makes both cores of a chip one device, as the runtime does.
            found["chip_config_name"] = "megacore"
        return found


def parse(name: str) -> Topology:
    """Returns the slice of that name.

    Raises:
        InputError: no such slice exists; the message names the nearest one.
    """
    kind, _, rest = name.replace("-", ":", 1).partition(":")
    kind = _OTHER_NAMES.get(kind.lower(), kind.lower())
    if kind not in TPUS:
        raise InputError(
            f"--topology={name}: no TPU is called {kind!r}; use one of {', '.join(TPUS)}, as in "
            f"{Topology(TPUS['v5e'], (8, 8)).name} or {Topology(TPUS['v5p'], (4, 4, 4)).name}"
        )
    chip = TPUS[kind]
    numbers = [int(part) for part in re.findall(r"\d+", rest)]
    shape = tuple(numbers)
    if name == f"{kind}:{'x'.join(map(str, shape))}" and exists(chip, shape):
        return Topology(chip, shape)
    cores = 2 if name.lower().startswith(("v4-", "v5p-")) else 1
    nearest = Topology(chip, _nearest(chip, numbers, math.prod(numbers) // cores if numbers else 1))
    raise InputError(
        f"--topology={name}: there is no such slice; the nearest is {nearest.name} of {nearest.chips} chips"
    )


def exists(chip: Chip, shape: tuple[int, ...]) -> bool:
    """Returns whether Google Cloud offers slices of this shape."""
    if chip.dimensions == 2:
        return shape in _FLAT
    if len(shape) != 3 or min(shape) < 1:
        return False
    cubes = all(length % 4 == 0 for length in shape) and tuple(sorted(shape)) == shape
    return shape in _SMALL or (cubes and math.prod(shape) <= chip.pod)


def _nearest(chip: Chip, numbers: list[int], chips: int) -> tuple[int, ...]:
    """Returns the shape nearest in its number of chips; one with the same lengths in another order comes first."""
    if exists(chip, tuple(sorted(numbers))):
        return tuple(sorted(numbers))
    if chip.dimensions == 2:
        known: tuple[tuple[int, ...], ...] = _FLAT
    else:
        lengths = range(4, 33, 4)
        cubes = ((a, b, c) for a in lengths for b in lengths for c in lengths)
        known = (*_SMALL, *(shape for shape in cubes if exists(chip, shape)))
    # Among shapes with equally many chips, the most compact one has the shortest paths.
    return min(known, key=lambda shape: (abs(math.log(math.prod(shape) / max(1, chips))), sum(shape)))
