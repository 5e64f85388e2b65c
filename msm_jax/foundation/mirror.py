"""Local copies of directories that lie at URLs.

Arrays, logs and data bases need files on a disk. So a command whose workdir or checkpoint is at a URL works on a local
copy, and copies whole files between the two. The URL is the truth: what only the copy has is dropped when work begins.

Copies lie below `root()`: in `written/` those of directories that this machine writes, in `read/` those that it reads.
The path below is that of the URL, so that each can be told from the other: gs://bucket/run and read/gs/bucket/run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import lock, retrying, storage

# The environment variable that says where copies lie.
ROOT = "MSM_JAX_MIRROR"
_AT_ONCE = 8
_PUSH_SECONDS = 30.0
# Follows the protocol of URLs whose path begins with a slash, such as file:///shared.
_SLASH = "-root"

log = logging.getLogger(__name__)


def root() -> Path:
    """Returns the directory of all copies: that of the variable MSM_JAX_MIRROR, or one in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(ROOT) or home / "msm_jax" / "mirror").absolute()


def place(url: str, tree: Literal["written", "read"]) -> Path:
    """Returns where the copy of a URL lies; nothing is copied.

    Raises:
        InputError: the URL names nothing below a bucket or root, or goes up by "..".
    """
    protocol, _, rest = url.partition("://")
    parts = PurePosixPath(rest.lstrip("/")).parts
    if not parts or ".." in parts:
        raise InputError(f'{url}: name a directory below the root, without ".."')
    return root() / tree / (protocol + _SLASH * rest.startswith("/")) / "/".join(parts)


def url_of(path: Path) -> str | None:
    """Returns the URL of which a local path is the copy, None for any other path."""
    for tree in ("written", "read"):
        above = root() / tree
        if path.is_relative_to(above) and len(path.relative_to(above).parts) > 1:
            protocol, *parts = path.relative_to(above).parts
            return _url(protocol, "/".join(parts))
    return None


def named(text: object) -> str:
    """Returns a text with the paths of copies replaced by their URLs, for what users read."""
    pattern = rf"{re.escape(str(root()))}/(?:written|read)/([a-z][a-z0-9+.-]*)/"
    return re.sub(pattern, lambda match: _url(match[1], ""), str(text))


def named_in(value: Any) -> Any:
    """Returns a JSON value whose texts name URLs in place of their copies, for files that other machines read."""
    return json.loads(named(json.dumps(value, ensure_ascii=False)))


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Has all copies lie in a directory of this block, so that it disturbs no run that works on those of this machine.

    Raises:
        InputError, WorkError: those of the block; they name URLs.
    """
    before = os.environ.get(ROOT)
    with tempfile.TemporaryDirectory() as directory:
        os.environ[ROOT] = directory
        try:
            yield
        except (InputError, WorkError) as error:
            raise type(error)(named(error)) from error
        finally:
            os.environ.pop(ROOT)
            if before is not None:
                os.environ[ROOT] = before


@contextlib.contextmanager
def kept_up(push: Callable[[], object]) -> Iterator[None]:
    """Calls `push` every half minute while the block runs, and once when it ends, however it ends.

    Raises:
        WorkError: the last call raised it, and the block did not fail.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(_PUSH_SECONDS):
            try:
                push()
            except (InputError, WorkError, OSError) as error:
                log.warning("%s; trying again in %.0f s", error, _PUSH_SECONDS)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:  # a signal too, after which the files say how far the work has come
        ended.set()
        thread.join()
        with contextlib.suppress(WorkError):  # the error that ended the work says more
            push()
        raise
    ended.set()
    thread.join()
    push()


def files_at(url: str) -> list[str]:
    """Returns the paths of the files below a URL, relative to it; none where nothing is there.

    Raises:
        InputError, WorkError: as `storage.reading`.
    """
    files = storage.file_system(url)
    base = files._strip_protocol(url).rstrip("/")

    def attempt() -> list[str]:
        files.invalidate_cache()  # another machine may have written since
        with contextlib.suppress(FileNotFoundError):
            return sorted(files.find(url))
        return []

    with storage.reading(url):
        found = [name[len(base) :].lstrip("/") for name in retrying.call(url, attempt)]
    return [name for name in found if name]


def pull(url: str, directory: Path, names: Iterable[str]) -> None:
    """Copies files below a URL into a local directory; each appears whole or not at all.

    Raises:
        InputError, WorkError: as `storage.download`.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: storage.download(f"{url}/{name}", directory / name), names))


def push(directory: Path, url: str, names: Iterable[str], *last: str) -> None:
    """Copies local files to a URL, those of `last` after all others, one by one; those that are gone are left out.

    Raises:
        WorkError: one cannot be written, or another process has taken over the URL.
    """
    lock.refuse_lost(url)

    def send(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            storage.upload(directory / name, f"{url}/{name}")

    given = set(names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(send, sorted(given.difference(last))))
    for name in last:
        if name in given:
            send(name)


def remove(url: str, first: str) -> None:
    """Deletes the files below a URL, `first` before all others.

    Raises:
        WorkError: the storage does not answer, or refuses, or another process has taken over the URL.
    """
    lock.refuse_lost(url)
    names = files_at(url)
    if first in names:
        storage.remove(f"{url}/{first}")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: storage.remove(f"{url}/{name}"), (name for name in names if name != first)))


def _url(protocol: str, rest: str) -> str:
    slash = "/" if protocol.endswith(_SLASH) else ""
    return f"{protocol.removesuffix(_SLASH)}://{slash}{rest}"

