"""Which bytes of a Hugging Face checkpoint each device's part of the weights is, from the headers alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from msm_jax.checkpoints.safetensors import Tensor
from msm_jax.models import families
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import AXES, MeshConfig

Position = tuple[int, int, int]


@dataclass(frozen=True)
class Ranges:
    """`count` byte ranges of one tensor, each `length` long, `stride` apart; `offset` counts from the file's start."""

    tensor: Tensor
    offset: int
    length: int
    stride: int
    count: int

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(first byte, end) of each range."""
        for start in range(self.offset, self.offset + self.count * self.stride, self.stride):
            yield start, start + self.length


@dataclass(frozen=True)
class Reads:
    """What one device reads.

    Attributes:
        ranges: in the order of reading; a stacked parameter is read a layer at a time.
        largest_part: bytes of the largest array of the device, which the host assembles.
        largest_read: bytes of the largest block that is rearranged on its way there.
    """

    ranges: tuple[Ranges, ...]
    largest_part: int
    largest_read: int

    @property
    def nbytes(self) -> int:
        """All bytes that are read."""
        return sum(each.length * each.count for each in self.ranges)

    @property
    def largest_buffer(self) -> int:
        """Most bytes that the host holds for this device at a time, beside what is on the device already."""
        return self.largest_part + self.largest_read


def plan(
    tensors: Mapping[str, Tensor], model: ModelConfig, mesh: MeshConfig, dtype: np.dtype | None = None
) -> dict[Position, Reads]:
    """The reads of `huggingface.load` for each device of a mesh, by its position along (data, fsdp, tensor).

    Args:
        tensors: of the files, checked against the model.
        model: its shape.
        mesh: devices along each axis; none of them has to be there.
        dtype: of the parameters on the devices; the tensors' own where None.

    Raises:
        InputError: the mesh does not divide the model.
    """
    weights = families.weights(model)
    ways = dict(zip(AXES, mesh.shape, strict=True))
    for weight in weights:
        sharding.check_divides(weight.parameter.full_axes, weight.full_shape, ways)
    found: dict[Position, Reads] = {}
    for data, fsdp, tensor in itertools.product(*map(range, mesh.shape)):
        at = {"data": data, "fsdp": fsdp, "tensor": tensor}
        ranges: list[Ranges] = []
        largest_part = 0
        for weight in weights:
            index = sharding.block(weight.parameter.full_axes, weight.full_shape, mesh, at)
            layers, inner = (index[0], index[1:]) if weight.layers else (slice(0, 1), index)
            rows, columns = weight.rectangle(inner)
            held = [tensors[weight.tensor(layer)] for layer in range(layers.start, layers.stop)]
            ranges += [_ranges(each, rows, columns) for each in held]
            size = math.prod(part.stop - part.start for part in index)
            largest_part = max(largest_part, size * (dtype or held[0].dtype).itemsize)
        largest_read = max(each.length * each.count for each in ranges)
        found[data, fsdp, tensor] = Reads(tuple(ranges), largest_part, largest_read)
    return found


def _ranges(tensor: Tensor, rows: slice, columns: slice) -> Ranges:
    item = tensor.dtype.itemsize
    width = math.prod(tensor.shape[1:]) if len(tensor.shape) == 2 else math.prod(tensor.shape)
    count, length = rows.stop - rows.start, columns.stop - columns.start
    offset = tensor.offset + (rows.start * width + columns.start) * item
    if length == width:
        return Ranges(tensor, offset, count * length * item, count * length * item, 1)
    return Ranges(tensor, offset, length * item, width * item, count)
