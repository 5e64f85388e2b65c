"""Databases in copies of URLs: what is pushed is consistent, and no row that one side has is lost."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from objects import here as here  # a fixture
from objects import memory as memory  # a fixture

from msm_jax.errors import WorkError
from msm_jax.foundation import databases, mirror, storage

URL = "memory://bucket/run/replies.sqlite"


def opened(path: Path) -> sqlite3.Connection:
    """Opens a database of replies as a journal does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS replies (item TEXT PRIMARY KEY, reply TEXT) WITHOUT ROWID")
    return connection


def add(connection: sqlite3.Connection, **replies: str) -> None:
    """Adds replies."""
    connection.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", replies.items())


def replies(path: Path) -> dict[str, str]:
    """Returns all replies in a file."""
    return dict(sqlite3.connect(path).execute("SELECT item, reply FROM replies").fetchall())


def at_url(tmp_path: Path) -> dict[str, str]:
    """Returns all replies at the URL, of which nothing but one file is there."""
    storage.download(URL, tmp_path / "found.sqlite")
    return replies(tmp_path / "found.sqlite")


def test_a_database_that_is_written_is_pushed_whole_and_again_when_it_changed(memory: Any, tmp_path: Path) -> None:
    path = mirror.place(URL, "written")
    with databases.pushed(path):
        writer = opened(path)
        add(writer, a="1")
        databases.push(path)
        assert at_url(tmp_path) == {"a": "1"}
        first = memory.info(URL)["created"]
        databases.push(path)
        assert memory.info(URL)["created"] == first
        add(writer, b="2")
    assert at_url(tmp_path) == {"a": "1", "b": "2"}
    assert memory.find("memory://bucket") == ["/bucket/run/replies.sqlite"]


def test_replies_that_only_one_side_has_are_kept(memory: Any, tmp_path: Path) -> None:
    path = mirror.place(URL, "written")
    with databases.pushed(path):
        writer = opened(path)
        add(writer, a="1")
    add(writer, b="here", c="3")  # not pushed: its machine was lost, and came back
    other = opened(tmp_path / "other.sqlite")
    add(other, a="1", b="there")
    other.close()
    storage.upload(tmp_path / "other.sqlite", URL)
    databases.pull(URL, path)
    assert replies(path) == {"a": "1", "b": "there", "c": "3"}
    path.write_bytes(b"damaged")
    databases.pull(URL, path)
    assert replies(path) == {"a": "1", "b": "there"}


def test_a_database_that_cannot_be_read_is_no_copy(memory: Any) -> None:
    path = mirror.place(URL, "written")
    storage.write_text(path, "no database" * 100)
    with pytest.raises(WorkError, match=r"cannot be copied .file is not a database"):
        databases.push(path)
    assert not memory.exists(URL)
