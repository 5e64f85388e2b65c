"""The device mesh. It has three named axes of type Auto, and is always passed explicitly."""

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
    """The number of devices along each axis; their product is the number of devices that a phase uses."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        """The number of devices in the mesh."""
        return self.data * self.fsdp * self.tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of devices along (data, fsdp, tensor)."""
        return (self.data, self.fsdp, self.tensor)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over the first `config.size` devices; neighbours along an axis are neighbours on the links.

    Several TPU slices are connected only by the data-centre network. They are spread over the data axis, and over fsdp
    if data is too short; the tensor axis stays within a slice.

    Args:
        config: the number of devices along each axis, all at least 1.
        devices: the devices to choose from, local or from a topology; None for all devices of all hosts.

    Raises:
        InputError: an axis is below 1, there are too few devices, a host would be left without a device, or the
            slices do not divide data × fsdp.
    """
    if min(config.shape) < 1:
        raise InputError(f"mesh {config.shape} has an axis below 1; use 1 for an axis that splits nothing")
    available = list(jax.devices() if devices is None else devices)
    if config.size > len(available):
        raise InputError(
            f"mesh {config.shape} needs {config.size} devices, but there are {len(available)}; "
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
    """Returns the devices as an array of the mesh's shape; only whole TPU slices are arranged by their links."""
    if devices[0].platform != "tpu" or not whole:
        return np.asarray(devices, dtype=object).reshape(config.shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(config.shape, devices, allow_split_physical_axes=True)
    inner, outer = across_slices(config, slices)
    return mesh_utils.create_hybrid_device_mesh(inner.shape, outer.shape, devices, allow_split_physical_axes=True)


def across_slices(config: MeshConfig, slices: int) -> tuple[MeshConfig, MeshConfig]:
    """Returns the parts of a mesh within a slice and across slices; their shapes multiply to the mesh's shape.

    Raises:
        InputError: the slices cannot be spread over the data and fsdp axes.
    """
    data = math.gcd(config.data, slices)
    fsdp = slices // data
    if config.fsdp % fsdp:
        raise InputError(
            f"mesh {config.shape} cannot be spread over {slices} slices along mesh.data and mesh.fsdp; set mesh.data "
            f"to a multiple of {slices}"
        )
    return MeshConfig(config.data // data, config.fsdp // fsdp, config.tensor), MeshConfig(data, fsdp, 1)


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu": the platform of the current mesh, or of JAX's default devices if none is set.

    The devices of the mesh need not exist, as when a program is compiled for a topology.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)
