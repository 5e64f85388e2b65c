"""Documents, chats and pairs of answers in JSONL and Parquet files, checked record by record.

A line of JSONL is one object, and a row of Parquet is one record of the same shape: `{"text", "meta"}` (or `{"text",
"source", "domain", ...}`) for documents, `{"messages": [{"role", "content"}, ...], "meta"}` for chats (see `messages`),
and `{"messages", "chosen", "rejected", "meta"}` for pairs (see `pairs`). Blank lines are skipped. Anything else that is
wrong raises an `InputError` that names the file, the line (or the row, from 1) and the field, unless the caller takes
such lines; then they are left out. `files` says what a path may be.
"""

import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

import zstandard

from msm_jax.data import files, pairs, parquet
from msm_jax.data import messages as messages_lib
from msm_jax.errors import InputError
from msm_jax.foundation import hashing, storage

# Takes the "file:line" and the problem of a line that is left out.
Skip = Callable[[str, str], None]
_Made = TypeVar("_Made")


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


def iter_documents(path: str | Sequence[str], skip: Skip | None = None) -> Iterator[Document]:
    """Yields the documents at `path` in file and line order; see `iter_records`.

    Fields other than "text" and "meta" ("source", "domain", ...) are added to `meta`.

    Args:
      path: as in `iter_records`.
      skip: takes each line that is wrong, which is then left out.

    Raises:
      InputError: a file is damaged or empty, or without `skip` a line is wrong; names the file, line and field.
    """
    return _made(path, _document, skip)


def iter_chats(path: str | Sequence[str], skip: Skip | None = None) -> Iterator[Chat]:
    """Yields the chats at `path` in file and line order; see `iter_documents` for the arguments and errors."""
    return _made(path, _chat, skip)


def iter_pairs(path: str | Sequence[str], skip: Skip | None = None) -> Iterator[tuple[str, pairs.Pair]]:
    """Yields ("file:line", pair) of the pairs at `path` in order; see `iter_documents` for the arguments and errors."""
    return _made(path, _pair, skip)


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
    for where, record in _lines_of(path):
        yield where, _object(record, where)


def _made(
    path: str | Sequence[str], make: Callable[[dict[str, Any], str], _Made], skip: Skip | None
) -> Iterator[_Made]:
    for where, record in _lines_of(path):
        try:
            made = make(_object(record, where), where)
        except InputError as error:
            if skip is None:
                raise
            skip(where, str(error).removeprefix(f"{where}: "))
        else:
            yield made


def _lines_of(path: str | Sequence[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for file in _files(path):
        for line, record in _records(file):
            yield f"{file}:{line}", record


def _object(record: dict[str, Any] | str, where: str) -> dict[str, Any]:
    if isinstance(record, str):
        raise InputError(f"{where}: {record}")
    return record


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


def _pair(record: dict[str, Any], where: str) -> tuple[str, pairs.Pair]:
    _meta(record, where)
    return where, pairs.read(record, where)


def _meta(record: dict[str, Any], where: str, *body: str) -> dict[str, Any]:
    meta = record.get("meta")
    if meta is None:  # Parquet has None where a row lacks the field
        meta = {}
    if not isinstance(meta, dict):
        kind = messages_lib.json_type(meta)
        raise InputError(f'{where}: field "meta" is {kind}, not an object; write it as an object')
    return {k: v for k, v in record.items() if k not in (*body, "meta")} | meta


def _records(file: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields (line or row number from 1, record) for every line that is not blank, and every row.

    In place of a record there is the problem of a line that is no JSON object.
    """
    seen = 0
    found: Iterable[tuple[int, dict[str, Any] | str]] = (
        parquet.rows(file) if file.endswith(".parquet") else _objects(file)
    )
    for number, record in found:
        seen += 1
        yield number, record
    if not seen:
        raise InputError(f"{file}:1: the file is empty; add lines or remove it from the path")


def _objects(file: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, raw in _lines(file):
        if raw.strip():
            yield number, _parsed(raw, number)


def _parsed(raw: bytes, number: int) -> dict[str, Any] | str:
    try:
        record = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as e:
        return f"byte {e.start + 1} of the line is not UTF-8; save the file as UTF-8"
    except (ValueError, RecursionError) as e:
        return f"bad JSON ({e}); each line must be one JSON object"
    if not isinstance(record, dict):
        return f"{messages_lib.json_type(record)}, not an object; each line must be one JSON object"
    return record


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
