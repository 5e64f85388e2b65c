"""SQLite files in local copies of URLs (`mirror`): what is pushed is a consistent copy, whoever writes meanwhile.

They hold replies that were paid for. So rows that only the copy has are kept where a file is pulled: they are those
whose push did not end.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msm_jax.errors import WorkError
from msm_jax.foundation import lock, mirror, storage

SUFFIX = ".sqlite"
# What SQLite writes beside a file.
_BESIDE = ("-wal", "-shm")

# The files that are at their URL as they are here: {local file: (time of change, size) of it and its log}.
_sent: dict[Path, list[tuple[int, int]]] = {}


def is_database(name: str) -> bool:
    """Returns whether a file is a database, or belongs to one."""
    return name.endswith((SUFFIX, *(f"{SUFFIX}{end}" for end in _BESIDE)))


@contextlib.contextmanager
def pushed(path: Path) -> Iterator[None]:
    """Pushes a database to its URL at least once a minute while the block runs, and when it ends; if it has a URL.

    Raises:
        WorkError: the last push failed.
    """
    if mirror.url_of(path) is None:
        yield
        return
    with mirror.kept_up(lambda: push(path)):
        yield


def push(path: Path) -> None:
    """Pushes a database that has changed to the URL of which its path is the copy.

    Raises:
        WorkError: it cannot be read, or the storage does not answer, or refuses.
    """
    url = mirror.url_of(path)
    assert url is not None
    lock.refuse_lost(url)
    # Another process may push it too, and an older state must not come after a newer one.
    with lock.exclusive(path.with_name(f".{path.name}.lock"), lambda: None):
        version = _version(path)
        if not path.exists() or _sent.get(path) == version:
            return
        with tempfile.NamedTemporaryFile(prefix=".", suffix=".tmp", dir=path.parent) as copy:
            try:
                with (
                    contextlib.closing(sqlite3.connect(path, timeout=60)) as source,
                    contextlib.closing(sqlite3.connect(copy.name)) as target,
                ):
                    source.backup(target)
            except sqlite3.Error as error:
                raise WorkError(f"{path} cannot be copied ({error}); free space and run it again") from error
            storage.upload(Path(copy.name), url)
        _sent[path] = version


def pull(url: str, path: Path) -> None:
    """Copies a database from a URL, and adds the rows that only the copy that was here has.

    Raises:
        InputError, WorkError: as `storage.download`.
    """
    found = path.with_name(f".{path.name}.tmp")
    storage.download(url, found)
    if path.exists():
        # One that is damaged, or of another form, has nothing to add.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(found)) as target:
            target.execute("ATTACH ? AS here", (str(path),))
            tables = target.execute("SELECT name FROM here.sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                target.execute(f'INSERT OR IGNORE INTO main."{table}" SELECT * FROM here."{table}"')
            target.commit()
    remove(path)
    found.replace(path)


def remove(path: Path) -> None:
    """Deletes a local database."""
    for each in (path, *(path.with_name(f"{path.name}{end}") for end in _BESIDE)):
        each.unlink(missing_ok=True)


def _version(path: Path) -> list[tuple[int, int]]:
    found = []
    for each in (path, path.with_name(f"{path.name}{_BESIDE[0]}")):
        with contextlib.suppress(FileNotFoundError):
            status = each.stat()
            found.append((status.st_mtime_ns, status.st_size))
    return found
