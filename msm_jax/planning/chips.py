"""Facts of accelerator chips: memory and links. Their arithmetic speed is in `training.metrics`.

TPU figures are from the tables of cloud.google.com/tpu/docs (v4, v5e, v5p, v6e). These give the bandwidth of all links
of a chip in both directions together; one link in one direction has that divided by twice the number of links. For v4
it is 50 GB/s (arXiv 2304.01433, section 2). Host memory is that of Google Cloud's machines with four chips. GPU figures
are from NVIDIA's data sheets, without sparsity; their link is NVLink, counted in one direction.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        name: the name in topologies ("v5e"), or a short one for a GPU.
        kind: a prefix of `jax.Device.device_kind`.
        hbm_bytes: memory by the data sheet; programs may use less, and the compiler reports how much.
        hbm_bandwidth: bytes/s.
        link_bandwidth: bytes/s of one link in one direction.
        dimensions: axes of the network, with two links of a chip along each; 0 where one link reaches every chip.
        ring: an axis whose length is a multiple of this is a ring, with a link from its last chip to its first.
        pod: the number of chips of the largest slice.
        host_bytes: memory of the host per chip, 0 where it is not known.
    """

    name: str
    kind: str
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    dimensions: int
    ring: int
    pod: int
    host_bytes: float


TPUS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 32 * GIB, 1200e9, 50e9, 3, 4, 4096, 407e9 / 4),
        Chip("v5e", "TPU v5 lite", 16 * GIB, 819e9, 50e9, 2, 16, 256, 192e9 / 4),
        Chip("v5p", "TPU v5", 95 * GIB, 2765e9, 100e9, 3, 4, 6144, 448e9 / 4),
        Chip("v6e", "TPU v6 lite", 32 * GIB, 1638e9, 100e9, 2, 16, 256, 720e9 / 4),
    )
}
GPUS = (
    Chip("A100", "NVIDIA A100", 80e9, 2039e9, 300e9, 0, 1, 8, 0.0),
    Chip("H100", "NVIDIA H100", 80e9, 3350e9, 450e9, 0, 1, 8, 0.0),
    Chip("H200", "NVIDIA H200", 141e9, 4800e9, 450e9, 0, 1, 8, 0.0),
)
NAMED = {chip.name: chip for chip in (*TPUS.values(), *GPUS)}


def of_kind(device_kind: str) -> Chip | None:
    """Returns the chip of a `jax.Device.device_kind` by the longest matching prefix, None for an unknown one."""
    found = [chip for chip in (*TPUS.values(), *GPUS) if device_kind.startswith(chip.kind)]
    return max(found, key=lambda chip: len(chip.kind), default=None)
