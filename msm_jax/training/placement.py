"""Placement of batches from the host onto the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from msm_jax.data.loader import Batch
from msm_jax.parallel import sharding


def _arrays(batch: Batch, more: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**{name: array for name, array in batch._asdict().items() if name != "source_ids"}, **more}


def place(batch: Batch, mesh: Mesh, more: Mapping[str, np.ndarray] = MappingProxyType({})) -> dict[str, jax.Array]:
    """Returns the rows of a batch that this host has read as its part of global arrays [rows, seq_len].

    `more` are further fields of these rows, likewise [rows, seq_len].
    """
    where = sharding.batch_sharding(mesh)
    arrays = _arrays(batch, more)
    if jax.process_count() == 1:
        return jax.device_put(arrays, where)
    return {name: jax.make_array_from_process_local_data(where, array) for name, array in arrays.items()}


def place_whole(
    batch: Batch, mesh: Mesh, more: Mapping[str, np.ndarray] = MappingProxyType({})
) -> dict[str, jax.Array]:
    """Returns a batch whose rows every host has read whole as global arrays [rows, seq_len]; `more` as in `place`."""
    where = sharding.batch_sharding(mesh)
    return {
        name: jax.make_array_from_callback(array.shape, where, array.__getitem__)
        for name, array in _arrays(batch, more).items()
    }


def share_of_rows(mesh: Mesh, rows: int) -> tuple[int, int]:
    """Returns (i, n): this host reads the i-th of n equal parts of a batch.

    Hosts that differ only along the tensor axis read the same part.
    """
    spans: dict[int, tuple[int, int]] = {}
    device: Any
    for device, (index,) in sharding.batch_sharding(mesh).devices_indices_map((rows,)).items():
        first, end, _ = index.indices(rows)
        low, high = spans.get(device.process_index, (first, end))
        spans[device.process_index] = (min(low, first), max(high, end))
    parts = sorted(set(spans.values()))
    return parts.index(spans[jax.process_index()]), len(parts)
