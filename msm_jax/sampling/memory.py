"""The size of the cache of keys and values."""

import jax
from jax.sharding import Mesh

from msm_jax.errors import InputError
from msm_jax.models import paged
from msm_jax.models.config import ModelConfig

# The memory of a cache, in MiB, where the devices do not say how much they have.
_UNKNOWN_MIB = 1024


def pages(config: ModelConfig, slots: int, page: int, cache_mib: int, mesh: Mesh | None) -> int:
    """Returns the number of pages, with page 0: as many as fit into the memory, but no more than all slots can fill.

    Args:
        config: the model's shape.
        slots: the rows that decode side by side.
        page: the tokens of a page.
        cache_mib: the memory of the cache, over all devices; 0 for half of what the devices have free, or 1 GiB where
            they do not say.
        mesh: the devices; None for the first one.

    Raises:
        InputError: `cache_mib` is negative, or the memory is too small for one page beside page 0.
    """
    if cache_mib < 0:
        raise InputError(f"cache_mib = {cache_mib}; it must be 0 (chosen by the free memory) or positive")
    room = cache_mib * 2**20 or _free(mesh)
    size = paged.page_bytes(config, page)
    if room < 2 * size:
        raise InputError(
            f"the cache has {room / 2**20:.0f} MiB, and a page of {page} tokens takes {size / 2**20:.1f}; two are "
            "needed, so raise cache_mib"
        )
    return min(room // size, 1 + slots * -(-config.max_position_embeddings // page))


def _free(mesh: Mesh | None) -> int:
    """Returns half of the memory that the devices have free together, for a cache that is split by heads, in bytes."""
    devices = jax.local_devices()[:1] if mesh is None else list(mesh.local_devices)
    told = [device.memory_stats() or {} for device in devices]
    free = [int(each["bytes_limit"]) - int(each["bytes_in_use"]) for each in told if "bytes_limit" in each]
    split = 1 if mesh is None else int(mesh.shape["tensor"])
    return min(free) // 2 * split if free else _UNKNOWN_MIB * 2**20
