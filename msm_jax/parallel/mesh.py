"""The device mesh: three named axes, always Auto, always passed explicitly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
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
    """A mesh over the first `config.size` devices, laid out so that neighbours on an axis are neighbours on the links.

    Over several TPU slices, which are joined by the data-centre network alone, the data axis crosses it first and fsdp
    for the rest; tensor stays within a slice.

    Args:
        config: devices along each axis, all at least 1.
        devices: the devices to choose from, here or of a topology; all devices of all hosts when None.

    Raises:
        InputError: an axis is below 1, there are too few devices, some host would be left without one, or the slices
            do not divide data × fsdp.
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
    return Mesh(_layout(config, chosen, whole=config.size == len(available)), AXES, axis_types=(AxisType.Auto,) * 3)


def _layout(config: MeshConfig, devices: Sequence[jax.Device], whole: bool) -> np.ndarray:
    """The devices as an array of the mesh's shape. Only of whole slices is the place of each device known to matter."""
    if devices[0].platform != "tpu" or not whole:
        return np.asarray(devices, dtype=object).reshape(config.shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(config.shape, devices, allow_split_physical_axes=True)
    inner, outer = across_slices(config, slices)
    return mesh_utils.create_hybrid_device_mesh(inner.shape, outer.shape, devices, allow_split_physical_axes=True)


def across_slices(config: MeshConfig, slices: int) -> tuple[MeshConfig, MeshConfig]:
    """The part of a mesh within each slice and the part across them; their shapes multiply to that of the mesh.

    Raises:
        InputError: the slices cannot be spread over the data and fsdp axes.
    """
    data = math.gcd(config.data, slices)
    fsdp = slices // data
    if config.fsdp % fsdp:
        raise InputError(
            f"mesh {config.shape} spreads over {slices} slices, which must divide mesh.data × mesh.fsdp along these "
            f"axes; set mesh.data to a multiple of {slices}"
        )
    return MeshConfig(config.data // data, config.fsdp // fsdp, config.tensor), MeshConfig(data, fsdp, 1)


def platform() -> str:
    """"cpu", "gpu" or "tpu": of the mesh that is set, whose devices need not be here, or else of JAX's own devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)
