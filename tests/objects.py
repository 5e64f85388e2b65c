"""Storages at URLs for tests: one in memory, and one on a disk that fails now and then."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from msm_jax.foundation import lock, mirror, retrying

EVERY = 20


class Flaky(LocalFileSystem):
    """Files at flaky://PATH, of which every 20th call fails, as when a connection breaks."""

    protocol = "flaky"
    calls = itertools.count(1)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("flaky://"))

    def __init__(self, **more: Any) -> None:
        super().__init__(**{**more, "auto_mkdir": True})


def failing(name: str) -> Any:
    """Returns a method that does what that of a local file system does, but for every 20th call."""
    inherited = getattr(LocalFileSystem, name)

    def call(self: Any, *args: Any, **more: Any) -> Any:
        if next(Flaky.calls) % EVERY == 0:
            raise ConnectionResetError(f"{name}: connection reset by peer")
        return inherited(self, *args, **more)

    return call


for each in ("pipe_file", "cat_file", "put_file", "get_file", "rm_file", "find", "exists"):
    setattr(Flaky, each, failing(each))
fsspec.register_implementation("flaky", Flaky)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the copies of URLs below a directory of the test, and does not wait after creating a lock or a failure."""
    monkeypatch.setenv(mirror.ROOT, str(tmp_path / "mirror"))
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(retrying, "_PAUSE_SECONDS", 0.001)
    return tmp_path / "mirror"


@pytest.fixture
def memory(here: Path) -> Iterator[Any]:
    """fsspec's storage in memory, which has no directories, emptied afterwards."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
