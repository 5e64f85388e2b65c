"""The files that a data path names: on this machine, in a bucket, or a public data set that was fetched before.

    data/docs.jsonl, data/*.jsonl.gz        local files, comma lists and globs of them
    gs://bucket/docs-*.parquet              any storage that fsspec reads; gs:// needs the package gcsfs
    hf://datasets/OWNER/NAME[@REVISION]/FILE   a Hugging Face data set, in the cache where `hf download` puts it;
                                            nothing is fetched here

A file is a string from here on: its local path, or its URL.
"""

import functools
import glob
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec

from msm_jax.errors import InputError, WorkError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_HUB = "hf://"
_HUB_FILE = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(path: str) -> list[str]:
    """Expands a file, a comma list of files, or globs to the sorted list of distinct files.

    Raises:
      InputError: nothing matches, a file is missing, or a name does not end in one of `SUFFIXES`.
      WorkError: the storage does not answer.
    """
    found: set[str] = set()
    for part in (p.strip() for p in path.split(",")):
        if part:
            found.update(_expand(_of_hub(part) if part.startswith(_HUB) else part))
    if not found:
        raise InputError("path is empty; give a data file, a comma list of files, or a glob")
    for file in found:
        if not file.endswith(SUFFIXES):
            raise InputError(f"{file}: not a data file; its name must end in {', '.join(SUFFIXES)}")
    return sorted(found, key=PurePosixPath)


def is_remote(file: str) -> bool:
    """Whether a path is a URL, read through fsspec."""
    return "://" in file


def open_file(file: str) -> BinaryIO:
    """Opens a file, local or remote, for reading bytes; it can seek.

    Raises:
      InputError: it is gone or not readable.
      WorkError: the storage does not answer.
    """
    with reading(file):
        return _storage(file).open(file, "rb") if is_remote(file) else open(file, "rb")


def sha256(file: str) -> str:
    """sha256 of the bytes of a file, 64 hex digits; read once per version of the file in this process.

    Raises:
      InputError, WorkError: as `open_file`.
    """
    with reading(file):
        version = _storage(file).ukey(file) if is_remote(file) else str(os.stat(file).st_mtime_ns)
    return _sha256(file, version)


@functools.cache
def _sha256(file: str, version: str) -> str:
    with reading(file), open_file(file) as f:
        digest = hashlib.sha256()
        while chunk := f.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Says in one line what keeps a file from being read.

    Raises:
      InputError: it is missing or not readable.
      WorkError: the storage does not answer.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{file}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{file}: not readable; check its permissions") from None
    except _failures() as error:
        problem = " ".join(str(error).split())[:200]
        if problem.startswith("Forbidden"):  # gcsfs's word for what it was denied
            raise InputError(f"{file}: not readable ({problem}); check its permissions and your credentials") from None
        raise WorkError(f"{file}: reading fails ({problem}); run again") from error


def _expand(path: str) -> list[str]:
    if is_remote(path):
        with reading(path):
            storage = _storage(path)
            matches = storage.glob(path) if glob.has_magic(path) else [path] if storage.isfile(path) else []
            matches = [storage.unstrip_protocol(match) for match in matches]
    elif glob.has_magic(path):
        matches = glob.glob(path, recursive=True)
    else:
        matches = [path] if Path(path).is_file() else []
    if not matches:
        problem = "no file matches" if glob.has_magic(path) else "no such file"
        raise InputError(f"{path}: {problem}; check the path")
    return [match if is_remote(match) else str(Path(match)) for match in matches]


def _storage(url: str) -> Any:
    try:
        return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        raise InputError(f"{url}: cannot be read yet: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}; use a local path or gs://") from None


def _failures() -> tuple[type[Exception], ...]:
    """What a storage's client raises: gcsfs has errors that are no OSError, and it is imported only where used."""
    names = (("gcsfs.retry", "HttpError"), ("google.auth.exceptions", "GoogleAuthError"), ("aiohttp", "ClientError"))
    loaded = [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]
    return (OSError, *loaded)


def _of_hub(url: str) -> str:
    """Where the Hugging Face cache keeps a file of a data set; globs stay.

    Raises:
      InputError: the URL is of another form, or the file was not fetched.
    """
    match = _HUB_FILE.fullmatch(url)
    if match is None:
        raise InputError(f"{url}: not of the form hf://datasets/OWNER/NAME[@REVISION]/FILE; correct it")
    name, revision, file = match["name"], match["revision"] or "main", match["file"]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    repository = cache / f"datasets--{name.replace('/', '--')}"
    commit = revision
    if not _COMMIT.fullmatch(revision):
        ref = repository / "refs" / revision
        commit = ref.read_text().strip() if ref.is_file() else ""
    local = repository / "snapshots" / commit / file
    if commit and (local.is_file() or (glob.has_magic(file) and glob.glob(str(local), recursive=True))):
        return str(local)
    include = f"--include '{file}'" if glob.has_magic(file) else file
    raise InputError(
        f"{url}: not in {cache}; fetch it (its licence is yours to check) with: "
        f"hf download {name} {include} --repo-type dataset --revision {revision}"
    )
