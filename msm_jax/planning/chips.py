"""What is known of accelerator chips: memory, and the links between them. Their arithmetic is in `training.metrics`.

TPU figures are from the tables of cloud.google.com/tpu/docs (v4, v5e, v5p, v6e), where a chip's bandwidth to its
neighbours is that of all its links in both directions together; a link in one direction has that over twice the number
of links. For v4 it is 50 GB/s (arXiv 2304.01433, section 2). Host memory is that of the Cloud's machines with four
chips. GPU figures are from NVIDIA's data sheets, without sparsity; the one link there is NVLink, in one direction.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        name: as in topology names ("v5e"), or what JAX calls the device.
        kind: prefix of `jax.Device.device_kind`.
        hbm_bytes: memory of the data sheet; what a program may use is less, and the compiler says how much.
        hbm_bandwidth: bytes/s.
        link_bandwidth: bytes/s of one link in one direction.
        dimensions: axes of the network; a chip has two links along each (0: every chip has one link to all).
        ring: an axis of a multiple of this length can be closed to a ring, by links from its last chip to its first.
        pod: chips of the largest slice.
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


def of_kind(device_kind: str) -> Chip | None:
    """The chip behind `jax.Device.device_kind`, the longest prefix that matches; None where it is not in the table."""
    found = [chip for chip in (*TPUS.values(), *GPUS) if device_kind.startswith(chip.kind)]
    return max(found, key=lambda chip: len(chip.kind), default=None)
