"""SHA-256 of what a result depends on: values, files and source code; and where two of them differ."""

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msm_jax.foundation import storage
from msm_jax.foundation.storage import Location

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
# Files whose hash is remembered, 7 MB at most: a run that saves for weeks would remember those of each checkpoint.
_REMEMBERED = 1 << 14


def sha256(content: bytes) -> str:
    """Returns the SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> bytes:
    """Returns the one JSON text of `value` (sorted keys, no spaces), so that equal values have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """Returns the SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return sha256(canonical(value))


def file_sha256(path: Location) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hex digits; it reads a version of a file once in a process.

    Raises:
      InputError, WorkError: as `storage.reading`.
    """
    with storage.reading(path):
        version = storage.file_system(str(path)).ukey(path) if storage.is_url(path) else _version(Path(path))
    return _file_sha256(str(path), version)


def _version(path: Path) -> str:
    status = path.stat()
    return f"{status.st_mtime_ns} {status.st_size} {status.st_ino}"


@functools.lru_cache(maxsize=_REMEMBERED)
def _file_sha256(path: str, version: str) -> str:
    with storage.reading(path), storage.open_file(path) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def files_sha256(paths: Iterable[Location]) -> str:
    """Returns the SHA-256 of the contents of some files, in their order, whatever their names.

    Raises:
      InputError, WorkError: as `storage.reading`.
    """
    return digest([file_sha256(path) for path in paths])


def tree_sha256(directory: Path, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """Returns {relative path: SHA-256} of every file below `directory`, except those in `leave_out`, relative paths."""
    skipped = set(leave_out)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory).as_posix(): path for path in files}
    return {name: file_sha256(path) for name, path in names.items() if name not in skipped}


def sources_of(module: str, root: Path = PACKAGE_ROOT) -> dict[str, str]:
    """Finds the source files that importing `module` runs, within its own top package, with their SHA-256.

    Imports are read from the text, those inside functions too, and followed transitively; nothing is
    executed. Packages' `__init__.py` count, since Python runs them first, and so do the files of other kinds
    beside them.

    Args:
      module: dotted name, for example "msm_jax.training.loop".
      root: the directory that holds the top package.

    Returns:
      {path relative to `root`: sha256}; a module that does not exist adds nothing.
    """
    package = module.split(".")[0]
    found: dict[str, str] = {}
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.split(".")[0] != package:
            continue
        seen.add(name)
        waiting.extend(_parents(name))
        path = _file_of(name, root)
        if path is not None:
            sha256, imports = _read_module(path, name)
            found[path.relative_to(root).as_posix()] = sha256
            waiting.extend(imports)
            if path.name == "__init__.py":
                resources = [file for file in path.parent.iterdir() if file.is_file() and file.suffix != ".py"]
                found |= {file.relative_to(root).as_posix(): file_sha256(file) for file in resources}
    return dict(sorted(found.items()))


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _file_of(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _read_module(path: Path, name: str) -> tuple[str, tuple[str, ...]]:
    return _parse_module(path, name, path.stat().st_mtime_ns)


@functools.cache
def _parse_module(path: Path, name: str, mtime_ns: int) -> tuple[str, tuple[str, ...]]:
    text = path.read_bytes()
    # `from . import x` counts from the package: the module itself where it is an __init__.py.
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return sha256(text), tuple(names)


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Returns the leaves in which two nested mappings differ, as (dotted key, old value, new value), sorted by key.

    A key that one of them lacks counts as None there. Sequences are leaves.
    """
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        name = f"{prefix}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += changes(before, after, name + ".")
        elif before != after:
            found.append((name, before, after))
    return found
