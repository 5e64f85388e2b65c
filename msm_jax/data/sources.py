"""Documents and chats in JSONL and Parquet files, checked record by record.

A line of JSONL is one object, a row of Parquet (as Hugging Face data sets have them) one record of the same shape:
`{"text", "meta"}` (or `{"text", "source", "domain", ...}`) for documents, `{"messages": [{"role", "content"}, ...],
"meta"}` for chats, see `messages`. Blank lines are skipped. Everything else that is wrong is an `InputError` that names
file, line (or row, from 1) and field. What a path may be is in `files`.
"""

import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import zstandard

from msm_jax.data import files, parquet
from msm_jax.data import messages as messages_lib
from msm_jax.errors import InputError
from msm_jax.foundation import hashing, storage


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A plain text; `where` is "file:line", or "file:row"."""

    text: str
    meta: Mapping[str, Any]
    where: str


@dataclasses.dataclass(frozen=True, slots=True)
class Chat:
    """Messages with at least one assistant turn, as `messages.read` makes them; `where` as in `Document`."""

    messages: tuple[dict[str, Any], ...]
    meta: Mapping[str, Any]
    where: str
    tools: tuple[dict[str, Any], ...] = ()


def data_sha256(path: str | Sequence[str]) -> str:
    """sha256 over the bytes, as they lie in storage, of the files that `path` names (or several paths do)."""
    found = {file for p in ([path] if isinstance(path, str) else path) for file in files.resolve(p)}
    hashes = (hashing.file_sha256(file) for file in sorted(found, key=PurePosixPath))
    return hashing.sha256(bytes.fromhex("".join(hashes)))


def read_documents(path: str) -> list[Document]:
    """Reads all documents of `path`; see `iter_documents`."""
    return list(iter_documents(path))


def read_chats(path: str) -> list[Chat]:
    """Reads all chats of `path`; see `iter_chats`."""
    return list(iter_chats(path))


def iter_documents(path: str) -> Iterator[Document]:
    """Yields the documents of `path` in file and line order.

    Fields other than "text" and "meta" ("source", "domain", ...) are added to `meta`.

    Raises:
      InputError: naming file, line and field of the first line that is wrong.
    """
    for file in files.resolve(path):
        for line, record in _records(file):
            where = f"{file}:{line}"
            if "text" not in record:
                hint = '; this is a chat, set kind="chats"' if "messages" in record else "; add it"
                raise InputError(f'{where}: field "text" is missing{hint}')
            text = messages_lib.checked_text(record["text"], where, "text")
            yield Document(text, _meta(record, where, "text"), where)


def iter_chats(path: str) -> Iterator[Chat]:
    """Yields the chats of `path` in file and line order.

    Raises:
      InputError: naming file, line and field of the first line that is wrong.
    """
    for file in files.resolve(path):
        for line, record in _records(file):
            where = f"{file}:{line}"
            if "messages" not in record:
                hint = '; this is a document, set kind="documents"' if "text" in record else "; add it"
                raise InputError(f'{where}: field "messages" is missing{hint}')
            messages, tools = messages_lib.read(record, where)
            yield Chat(messages, _meta(record, where, *messages_lib.FIELDS), where, tools)


def iter_records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", object) of the lines or rows of `path`, for files of other shapes.

    Raises:
      InputError: naming file and line of the first line that is not a JSON object.
    """
    for file in files.resolve(path):
        for line, record in _records(file):
            yield f"{file}:{line}", record


def _meta(record: dict[str, Any], where: str, *body: str) -> dict[str, Any]:
    meta = record.get("meta")
    if meta is None:  # what Parquet has where a row lacks the field
        meta = {}
    if not isinstance(meta, dict):
        kind = messages_lib.json_type(meta)
        raise InputError(f'{where}: field "meta" is {kind}, not an object; write it as an object')
    return {k: v for k, v in record.items() if k not in (*body, "meta")} | meta


def _records(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line or row number from 1, record) for every line that is not blank, and every row."""
    seen = 0
    for number, record in parquet.rows(file) if file.endswith(".parquet") else _objects(file):
        seen += 1
        yield number, record
    if not seen:
        raise InputError(f"{file}:1: the file is empty; add lines or remove it from the path")


def _objects(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, raw in _lines(file):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as e:
            problem = f"byte {e.start + 1} of the line is not UTF-8; save the file as UTF-8"
            raise InputError(f"{file}:{number}: {problem}") from None
        except (ValueError, RecursionError) as e:
            raise InputError(f"{file}:{number}: bad JSON ({e}); each line must be one JSON object") from None
        if not isinstance(record, dict):
            problem = f"{messages_lib.json_type(record)}, not an object; each line must be one JSON object"
            raise InputError(f"{file}:{number}: {problem}")
        yield number, record


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with storage.reading(file), storage.open_file(file) as stored:
        try:
            for number, line in enumerate(_decompressed(file, stored), 1):
                yield number, line
        except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError) as e:
            raise InputError(
                f"{file}:{number + 1}: damaged or not compressed as its name says ({e}); compress it again"
            ) from None


def _decompressed(file: str, stored: BinaryIO) -> Iterable[bytes]:
    if file.endswith(".gz"):
        return gzip.open(stored, "rb")
    if file.endswith(".zst"):
        frames = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)
        return io.BufferedReader(frames)
    return stored
