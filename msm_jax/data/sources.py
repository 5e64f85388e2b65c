"""JSONL documents and chats, checked line by line.

Each line is one JSON object: `{"text", "meta"}` (or `{"text", "source", "domain", ...}`) for documents,
`{"messages": [{"role", "content"}, ...], "meta"}` for chats, see `messages`. Blank lines are skipped. Everything else
that is wrong is an `InputError` that names file, line and field.
"""

import dataclasses
import glob
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import zstandard

from msm_jax.data import messages as messages_lib
from msm_jax.errors import InputError

_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A plain text; `where` is "file:line"."""

    text: str
    meta: Mapping[str, Any]
    where: str


@dataclasses.dataclass(frozen=True, slots=True)
class Chat:
    """Messages with at least one assistant turn, as `messages.read` makes them; `where` is "file:line"."""

    messages: tuple[dict[str, Any], ...]
    meta: Mapping[str, Any]
    where: str
    tools: tuple[dict[str, Any], ...] = ()


def resolve_paths(path: str) -> list[Path]:
    """Expands a file, a comma list of files, or globs to the sorted list of distinct files.

    Raises:
      InputError: nothing matches, a file is missing, or a name does not end as JSONL does.
    """
    found: set[Path] = set()
    for part in (p.strip() for p in path.split(",")):
        if not part:
            continue
        matches = [Path(m) for m in glob.glob(part, recursive=True)] if glob.has_magic(part) else [Path(part)]
        if not matches:
            raise InputError(f"{part}: no file matches; check the path")
        found.update(matches)
    if not found:
        raise InputError("path is empty; give a JSONL file, a comma list of files, or a glob")
    for file in found:
        if not file.is_file():
            raise InputError(f"{file}: no such file; check the path")
        if not file.name.endswith(_SUFFIXES):
            raise InputError(f"{file}: not a JSONL file; its name must end in {', '.join(_SUFFIXES)}")
    return sorted(found)


def data_sha256(path: str | Sequence[str]) -> str:
    """sha256 over the bytes, as they lie on disk, of the files that `path` names (or several paths do)."""
    files = sorted({f for p in ([path] if isinstance(path, str) else path) for f in resolve_paths(p)})
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as f:
            total.update(hashlib.file_digest(f, "sha256").digest())
    return total.hexdigest()


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
    for file in resolve_paths(path):
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
    for file in resolve_paths(path):
        for line, record in _records(file):
            where = f"{file}:{line}"
            if "messages" not in record:
                hint = '; this is a document, set kind="documents"' if "text" in record else "; add it"
                raise InputError(f'{where}: field "messages" is missing{hint}')
            messages, tools = messages_lib.read(record, where)
            yield Chat(messages, _meta(record, where, *messages_lib.FIELDS), where, tools)


def iter_records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", object) of the lines of `path`, for JSONL of other shapes.

    Raises:
      InputError: naming file and line of the first line that is not a JSON object.
    """
    for file in resolve_paths(path):
        for line, record in _records(file):
            yield f"{file}:{line}", record


def _meta(record: dict[str, Any], where: str, *body: str) -> dict[str, Any]:
    meta = record.get("meta", {})
    if not isinstance(meta, dict):
        kind = messages_lib.json_type(meta)
        raise InputError(f'{where}: field "meta" is {kind}, not an object; write it as an object')
    return {k: v for k, v in record.items() if k not in (*body, "meta")} | meta


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for every line that is not blank."""
    seen = 0
    for number, raw in _lines(file):
        if not raw.strip():
            continue
        seen += 1
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
    if not seen:
        raise InputError(f"{file}:1: the file is empty; add lines or remove it from the path")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with _open(file) as f:
            for number, line in enumerate(f, 1):
                yield number, line
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError) as e:
        raise InputError(
            f"{file}:{number + 1}: damaged or not compressed as its name says ({e}); compress it again"
        ) from None
    except PermissionError:
        raise InputError(f"{file}: not readable; check its permissions") from None


def _open(file: Path) -> IO[bytes]:
    if file.name.endswith(".gz"):
        return io.BufferedReader(gzip.open(file, "rb"))
    if file.name.endswith(".zst"):
        frames = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True)
        return io.BufferedReader(frames)
    return file.open("rb")
