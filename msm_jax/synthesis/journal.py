"""The journal of a run: every reply, on disk as soon as it arrives, under the question that it answers.

It is an SQLite file. A log of lines would be as durable, but to find one of ten thousand replies in it, all of them
would have to be held in memory; and where a process is killed in the middle of a line, SQLite's log repairs itself. A
reply is committed before anything is made of it. A killed process loses none; a loss of power may lose those of the
last moments.

Questions are told apart by the text of their prompt, so replies serve again wherever a later run, with another plan
or other gates, asks the same.

In the local copy of a URL (`foundation.mirror`), the file is pushed to it every half minute, and when it is closed.
"""

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import databases, storage
from msm_jax.sampling.model import StopReason

_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    stage TEXT NOT NULL,
    item TEXT NOT NULL,
    prompt_sha256 TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    writer TEXT NOT NULL,
    reply TEXT NOT NULL,
    thinking TEXT NOT NULL,
    stop_reason TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    time REAL NOT NULL,
    PRIMARY KEY (stage, item, prompt_sha256, attempt, writer)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Key:
    """What tells one call from another: the stage, the item of the plan, the prompt, the number of the attempt from
    0, and
    the name of the model."""

    stage: str
    item: str
    prompt_sha256: str
    attempt: int
    writer: str


@dataclass(frozen=True)
class Reply:
    """A reply as it arrived. The tokens are those that the provider counted, or an estimate where it counts none."""

    text: str
    stop_reason: StopReason
    input_tokens: int
    output_tokens: int
    thinking: str = ""


class Journal:
    """The replies of one spec. Several processes may have it open."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and makes it where it is missing.

        Raises:
            InputError: the file is no journal, or lies at a URL.
            WorkError: it cannot be written.
        """
        if storage.is_url(path):
            raise InputError(f"{path}: the journal needs a local disk; choose a local directory")
        self.path = path
        with storage.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(_TABLES)
            found = self.fact("version", str(_VERSION))
        except sqlite3.OperationalError as error:
            raise WorkError(f"{path} cannot be opened ({error}); check its permissions and the free space") from error
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: is no journal of replies ({error}); move it away") from error
        if found != str(_VERSION):
            raise InputError(f"{path}: has the format {found}, not {_VERSION}; choose another directory")
        self._pushed = contextlib.ExitStack()
        self._pushed.enter_context(databases.pushed(path))

    def find(self, key: Key) -> Reply | None:
        """Returns the reply to a call, None where none is on disk."""
        row = self._connection.execute(
            "SELECT reply, stop_reason, input_tokens, output_tokens, thinking FROM replies"
            " WHERE stage = ? AND item = ? AND prompt_sha256 = ? AND attempt = ? AND writer = ?",
            (key.stage, key.item, key.prompt_sha256, key.attempt, key.writer),
        ).fetchone()
        return Reply(*row) if row else None

    def store(self, key: Key, reply: Reply) -> None:
        """Writes a reply; when this returns, a killed process does not lose it.

        Raises:
            WorkError: it cannot be written (disk full).
        """
        # SQLite stores UTF-8, which has no halves of surrogate pairs.
        text, thinking = (part.encode("utf-8", "replace").decode() for part in (reply.text, reply.thinking))
        values = (key.stage, key.item, key.prompt_sha256, key.attempt, key.writer, text, thinking)
        counts = (reply.stop_reason, reply.input_tokens, reply.output_tokens, time.time())
        try:
            self._connection.execute(f"INSERT OR IGNORE INTO replies VALUES ({','.join('?' * 11)})", (*values, *counts))
        except sqlite3.OperationalError as error:
            raise WorkError(
                f"{self.path} cannot be written ({error}); free space and run the same command again"
            ) from error

    def fact(self, name: str, value: str) -> str:
        """Returns the value that is stored under a name; stores `value` where there is none."""
        self._connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
        return str(self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])

    def spent(self) -> dict[str, tuple[int, int, int]]:
        """Returns {model: (calls, tokens of input, tokens of output)} of all replies on disk."""
        rows = self._connection.execute(
            "SELECT writer, COUNT(*), SUM(input_tokens), SUM(output_tokens) FROM replies GROUP BY writer"
        )
        return {writer: (calls, taken, given) for writer, calls, taken, given in rows}

    def close(self) -> None:
        """Closes the file.

        Raises:
            WorkError: it cannot be pushed to its URL.
        """
        self._connection.close()
        self._pushed.close()
