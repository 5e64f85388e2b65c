"""The device mesh: three named axes, always Auto, always passed explicitly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh

from msm_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each axis; their product is the number of devices a phase uses."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        """Devices in the mesh."""
        return self.data * self.fsdp * self.tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Devices along (data, fsdp, tensor)."""
        return (self.data, self.fsdp, self.tensor)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the first `config.size` devices.

    Args:
        config: devices along each axis, all at least 1.
        devices: the devices to choose from; all devices of all hosts when None.

    Raises:
        InputError: an axis is below 1, there are too few devices, or some host would be left without one.
    """
    if min(config.shape) < 1:
        raise InputError(f"mesh {config.shape} has an axis below 1; use 1 for an axis that is not sharded")
    available = list(jax.devices() if devices is None else devices)
    if config.size > len(available):
        raise InputError(
            f"mesh {config.shape} needs {config.size} devices and {len(available)} are here; "
            f"lower mesh.data, mesh.fsdp or mesh.tensor (on CPU: simulate them before JAX starts)"
        )
    chosen = available[: config.size]
    if devices is None and len({d.process_index for d in chosen}) != jax.process_count():
        raise InputError(
            f"mesh {config.shape} leaves hosts without a device; use all {len(available)} devices of the "
            f"{jax.process_count()} hosts"
        )
    return jax.make_mesh(
        config.shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=chosen
    )
