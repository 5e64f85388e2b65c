"""The safetensors format: an eight-byte length, a JSON header, then the bytes of the tensors.

Files are mapped into memory. A block of a tensor therefore uses only the pages that hold it, and no memory of the
process's own.
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
# The limit that the format sets.
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """The position of a tensor in a file; `offset` counts bytes from the start of the file."""

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
    """Returns the tensors of one file by name; reads only its header.

    Raises:
        InputError: the file does not exist, has another format or is cut off, or the dtype of a tensor is not
            supported.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                raise InputError(f"{file}: is cut off or not a safetensors file ({size} bytes); copy it again")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: its header is not JSON, so it is not a safetensors file; copy it again") from error
    if not isinstance(header, dict):
        raise InputError(f"{file}: its header is not a JSON object, so it is not a safetensors file; copy it again")
    header.pop("__metadata__", None)
    return {name: _tensor(name, entry, file, 8 + length, size) for name, entry in header.items()}


def _tensor(name: str, entry: Any, file: Path, start: int, size: int) -> Tensor:
    try:
        kind, shape = entry["dtype"], tuple(int(length) for length in entry["shape"])
        begin, end = (int(position) for position in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: the header's entry of tensor {name} is damaged ({error}); copy it again") from error
    if kind not in DTYPES:
        raise InputError(f"{file}: tensor {name} has dtype {kind}; supported are {', '.join(DTYPES)}")
    tensor = Tensor(name, file, DTYPES[kind], shape, start + begin)
    if begin < 0 or end - begin != tensor.nbytes:
        raise InputError(f"{file}: the header gives tensor {name} {end - begin} bytes, not {tensor.nbytes}")
    if start + end > size:
        raise InputError(
            f"{file}: is cut off: tensor {name} ends at byte {start + end}, but the file has {size}; copy it again"
        )
    return tensor


def read_directory(directory: Path) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint in one file, or in shards with an index; reads only headers.

    Raises:
        InputError: there is no checkpoint, a shard is missing or damaged, or the index and a shard contradict each
            other.
    """
    index = directory / INDEX_FILE
    if not index.is_file():
        if not (directory / SINGLE_FILE).is_file():
            raise InputError(f"{directory}: holds neither {SINGLE_FILE} nor {INDEX_FILE}; choose a directory that does")
        return read_header(directory / SINGLE_FILE)
    value = storage.read_json(index)
    placed = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise InputError(f"{index}: has no weight_map from tensors to files; copy it again")
    found: dict[str, Tensor] = {}
    for file in sorted(set(placed.values())):
        if Path(file).name != file:
            raise InputError(f"{index}: places tensors in {file!r}, outside the directory; copy it again")
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
    """Reads blocks of tensors from files that stay mapped."""

    def __init__(self) -> None:
        self._maps: dict[Path, np.memmap] = {}

    def block(self, tensor: Tensor, rows: slice, columns: slice) -> np.ndarray:
        """Returns a view [rows, columns] of a rectangle of a matrix, or of a vector, which counts as one row."""
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
    """Writes a checkpoint tensor by tensor, in one file or in shards with an index.

    Args:
        directory: an existing directory.
        planned: the tensors, in the order in which they are written.
        blocks: returns the content of a tensor in pieces, in memory order.
        shard_bytes: the most bytes of tensors in a file, unless one tensor is larger.

    Raises:
        OSError: the disk is full, or writing fails for another reason.
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
