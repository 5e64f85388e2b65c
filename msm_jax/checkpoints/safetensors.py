"""The safetensors format: an eight-byte length, a JSON header, then the bytes of the tensors.

Files are mapped, not read: a block of a tensor costs the pages that it lies on and no memory of the process's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from msm_jax.errors import InputError
from msm_jax.foundation import storage

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
# The format's own limit.
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: `offset` counts from the start of the file."""

    name: str
    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, by name; reads its header only.

    Raises:
        InputError: no such file, not of this format, cut off, or a tensor of a dtype that we do not read.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                raise InputError(f"{file}: is cut off or no safetensors file ({size} bytes); copy it again")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: its header is not JSON, so it is no safetensors file; copy it again") from error
    if not isinstance(header, dict):
        raise InputError(f"{file}: its header is not a JSON object, so it is no safetensors file; copy it again")
    header.pop("__metadata__", None)
    return {name: _tensor(name, entry, file, 8 + length, size) for name, entry in header.items()}


def _tensor(name: str, entry: Any, file: Path, start: int, size: int) -> Tensor:
    try:
        kind, shape = entry["dtype"], tuple(int(length) for length in entry["shape"])
        begin, end = (int(position) for position in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: the header's entry of tensor {name} is damaged ({error}); copy it again") from error
    if kind not in DTYPES:
        raise InputError(f"{file}: tensor {name} is of dtype {kind}; {', '.join(DTYPES)} are read")
    tensor = Tensor(name, file, DTYPES[kind], shape, start + begin)
    if begin < 0 or end - begin != tensor.nbytes:
        raise InputError(f"{file}: the header gives tensor {name} {end - begin} bytes, {tensor.nbytes} are needed")
    if start + end > size:
        raise InputError(
            f"{file}: is cut off: tensor {name} ends at byte {start + end} and the file has {size}; copy it again"
        )
    return tensor


def read_directory(directory: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint in one file, or in shards under an index; reads headers only.

    Raises:
        InputError: there is no checkpoint, a shard is missing or damaged, or the index and a shard disagree.
    """
    index = directory / INDEX_FILE
    if not index.is_file():
        if not (directory / SINGLE_FILE).is_file():
            raise InputError(f"{directory}: holds neither {SINGLE_FILE} nor {INDEX_FILE}; name one that does")
        return read_header(directory / SINGLE_FILE)
    value = storage.read_json(index)
    placed = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise InputError(f"{index}: has no weight_map of tensor to file; copy it again")
    found: dict[str, Tensor] = {}
    for file in sorted(set(placed.values())):
        if Path(file).name != file:
            raise InputError(f"{index}: places tensors in {file!r}, outside of the directory")
        held = [name for name, at in placed.items() if at == file]
        if not (directory / file).is_file():
            raise InputError(
                f"{directory / file}: no such file, but {INDEX_FILE} places tensor {held[0]} in it; copy it too"
            )
        header = read_header(directory / file)
        for name in held:
            if name not in header:
                raise InputError(
                    f"{directory / file}: lacks tensor {name}, which {INDEX_FILE} places in it; copy both again"
                )
            found[name] = header[name]
    return found


class Reader:
    """Blocks of tensors, from files that stay mapped."""

    def __init__(self) -> None:
        self._maps: dict[Path, np.memmap] = {}

    def block(self, tensor: Tensor, rows: slice, columns: slice) -> np.ndarray:
        """A view of a rectangle of a matrix, or of some columns of a vector, which is one row: [rows, columns]."""
        if tensor.file not in self._maps:
            self._maps[tensor.file] = np.memmap(tensor.file, np.uint8, "r")
        whole = self._maps[tensor.file][tensor.offset : tensor.offset + tensor.nbytes].view(tensor.dtype)
        shape = tensor.shape if len(tensor.shape) == 2 else (1, math.prod(tensor.shape))
        return whole.reshape(shape)[rows, columns]


@dataclass(frozen=True)
class Planned:
    """A tensor to be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_directory(
    directory: Path,
    planned: Sequence[Planned],
    blocks: Callable[[Planned], Iterable[np.ndarray]],
    shard_bytes: int,
) -> None:
    """Writes a checkpoint tensor by tensor, in one file or in shards under an index.

    Args:
        directory: where; it exists.
        planned: what, in the order of the files.
        blocks: the content of a tensor, in pieces that follow each other in memory order.
        shard_bytes: a file holds so many bytes of tensors, or one larger tensor.

    Raises:
        OSError: the disk is full, or the like.
    """
    shards: list[list[Planned]] = [[]]
    for tensor in planned:
        if shards[-1] and sum(each.nbytes for each in shards[-1]) + tensor.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write_file(directory / SINGLE_FILE, shards[0], blocks)
        return
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(directory / file, shard, blocks)
        placed |= {tensor.name: file for tensor in shard}
    total = {"total_size": sum(tensor.nbytes for tensor in planned)}
    storage.write_json(directory / INDEX_FILE, {"metadata": total, "weight_map": placed})


def _write_file(file: Path, shard: Sequence[Planned], blocks: Callable[[Planned], Iterable[np.ndarray]]) -> None:
    names = {dtype: name for name, dtype in DTYPES.items()}
    # transformers refuses a file without this metadata.
    header: dict[str, Mapping[str, Any]] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in shard:
        header[tensor.name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in shard:
            written = 0
            for block in blocks(tensor):
                assert block.dtype == tensor.dtype
                written += stream.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            assert written == tensor.nbytes, f"{tensor.name}: {written} bytes of {tensor.nbytes}"
