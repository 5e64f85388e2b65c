"""Documents and chats in JSONL and Parquet files, checked record by record.

A line of JSONL is one object, and a row of Parquet is one record of the same shape: `{"text", "meta"}` (or `{"text",
"source", "domain", ...}`) for documents, `{"messages": [{"role", "content"}, ...], "meta"}` for chats (see `messages`).
Blank lines are skipped. Anything else that is wrong raises an `InputError` that names the file, the line (or the row,
from 1) and the field. `files` says what a path may be.
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
    """A plain text; `where` is "file:line", or "file:row" in Parquet."""

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
    """Returns the SHA-256 over the stored (compressed) bytes of the files at `path`; see `iter_records`."""
    hashes = (hashing.file_sha256(file) for file in sorted(_files(path), key=PurePosixPath))
    return hashing.sha256(bytes.fromhex("".join(hashes)))


def iter_documents(path: str | Sequence[str]) -> Iterator[Document]:
    """Yields the documents at `path` in file and line order; see `iter_records`.

    Fields other than "text" and "meta" ("source", "domain", ...) are added to `meta`.

    Raises:
      InputError: names the file, line and field of the first line that is wrong.
    """
    for where, record in iter_records(path):
        yield _document(record, where)


def iter_chats(path: str | Sequence[str]) -> Iterator[Chat]:
    """Yields the chats at `path` in file and line order; see `iter_records`.

    Raises:
      InputError: names the file, line and field of the first line that is wrong.
    """
    for where, record in iter_records(path):
        yield _chat(record, where)


def iter_texts(path: str | Sequence[str]) -> Iterator[str]:
    """Yields the texts of documents and the contents of the messages of chats, in file and line order.

    Each file holds documents or chats; its first record decides which.

    Raises:
      InputError: names the file, line and field of the first line that is wrong.
    """
    for file in _files(path):
        chats = None
        for where, record in iter_records([file]):
            if chats is None:
                chats = "messages" in record and "text" not in record
            if chats:
                yield from (message["content"] for message in _chat(record, where).messages)
            else:
                yield _document(record, where).text


def iter_records(path: str | Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", object) for each line or row, whatever the shape of the object.

    Args:
      path: a data path, or the files that `files.resolve` found for one.

    Raises:
      InputError: names the file and line of the first line that is not a JSON object.
    """
    for file in _files(path):
        for line, record in _records(file):
            yield f"{file}:{line}", record


def _files(path: str | Sequence[str]) -> Sequence[str]:
    return files.resolve(path) if isinstance(path, str) else path


def _document(record: dict[str, Any], where: str) -> Document:
    if "text" not in record:
        hint = '; this is a chat, set kind="chats"' if "messages" in record else "; add it"
        raise InputError(f'{where}: field "text" is missing{hint}')
    text = messages_lib.checked_text(record["text"], where, "text")
    return Document(text, _meta(record, where, "text"), where)


def _chat(record: dict[str, Any], where: str) -> Chat:
    if "messages" not in record:
        hint = '; this is a document, set kind="documents"' if "text" in record else "; add it"
        raise InputError(f'{where}: field "messages" is missing{hint}')
    messages, tools = messages_lib.read(record, where)
    return Chat(messages, _meta(record, where, *messages_lib.FIELDS), where, tools)


def _meta(record: dict[str, Any], where: str, *body: str) -> dict[str, Any]:
    meta = record.get("meta")
    if meta is None:  # Parquet has None where a row lacks the field
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
