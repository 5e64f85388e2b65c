"""TPU slices as Google Cloud names them: accelerator types, runtime versions, and how many hosts a slice has.

Facts are from cloud.google.com/tpu/docs: v4, v5e, v5p and v6e (types and hosts), runtimes (software versions).
"""

from __future__ import annotations

import math
import re

from msm_jax.errors import InputError
from msm_jax.planning import topology
from msm_jax.planning.chips import TPUS
from msm_jax.planning.topology import Topology

# The kind of chip -> the word before the number of chips in an accelerator type.
_TYPES = {"v5e": "v5litepod", "v6e": "v6e"}
_RUNTIMES = {
    "v4": "tpu-ubuntu2204-base", "v5e": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e",
}


def parse(name: str) -> Topology:
    """Returns the slice that `--accelerator` names: v5e:8x8, or Google Cloud's v5litepod-64 and v6e-64.

    Raises:
        InputError: no such slice exists; the message names the nearest one.
    """
    known = re.fullmatch(r"(v5litepod|v6e)-(\d+)", name)
    if known:
        chip = TPUS[next(kind for kind, word in _TYPES.items() if word == known[1])]
        # The shapes on offer are squares, or twice as long as wide: one for each number of chips.
        for side in (1, 2, 4, 8, 16):
            for shape in ((side, side), (side, 2 * side)):
                if math.prod(shape) == int(known[2]) and topology.exists(chip, shape):
                    return Topology(chip, shape)
    try:
        found = topology.parse(name)
    except InputError as error:
        raise InputError(str(error).replace("--topology", "--accelerator", 1)) from error
    if found.chip.name == "v5p" and max(found.shape) > 2 * min(found.shape):
        raise InputError(
            f"--accelerator={name}: gcloud asks for v5p by the number of cores and gets the most compact shape; "
            "name one whose lengths differ at most by a factor of two"
        )
    return found


def hosts(found: Topology) -> int:
    """Returns the number of machines: four chips each, and one machine for up to eight chips of v5e and v6e."""
    if found.chip.name in _TYPES and found.chips <= 8:
        return 1
    return max(1, found.chips // 4)


def flags(found: Topology) -> list[str]:
    """Returns the flags of `queued-resources create` that ask for this slice."""
    if found.chip.name in _TYPES:
        return [f"--accelerator-type={_TYPES[found.chip.name]}-{found.chips}"]
    if found.chip.name == "v5p":
        return [f"--accelerator-type=v5p-{2 * found.chips}"]  # counted in cores
    return [f"--type={found.chip.name}", f"--topology={'x'.join(map(str, found.shape))}"]


def runtime(found: Topology) -> str:
    """Returns the runtime version that a slice needs for JAX."""
    return _RUNTIMES[found.chip.name]
