"""Replies are on disk before anything is made of them, and jobs run a bounded number at a time, in their order."""

import asyncio
import dataclasses
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthesis_small as small

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import settings
from msm_jax.synthesis import jobs
from msm_jax.synthesis.jobs import Job
from msm_jax.synthesis.journal import Journal, Key, Reply

ROOT = Path(__file__).parent.parent
KEY = Key("domains", "u0", "ab" * 32, 0, "writer")
REPLY = Reply("A text with 'quotes', {braces}, \n lines and ünïcode 🧀.", "stop", 12, 34, "thinking")


def test_a_reply_is_found_under_its_question_and_no_other(tmp_path: Path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal.store(KEY, REPLY)
    assert journal.find(KEY) == REPLY
    others = {"stage": "x", "item": "u1", "prompt_sha256": "cd" * 32, "attempt": 1, "writer": "y"}
    for name, value in others.items():
        assert journal.find(dataclasses.replace(KEY, **{name: value})) is None  # type: ignore[arg-type]  # by its name
    assert Journal(tmp_path / "journal.sqlite").find(KEY) == REPLY
    assert journal.spent() == {"writer": (1, 12, 34)}


def test_half_a_surrogate_pair_can_be_stored(tmp_path: Path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal.store(KEY, Reply("a \ud800 b", "stop", 1, 1))
    found = journal.find(KEY)
    assert found is not None and found.text == "a ? b"


def test_what_is_no_journal_is_refused(tmp_path: Path):
    (tmp_path / "text.sqlite").write_text("This is not a database, but a text of some length. " * 30)
    with pytest.raises(InputError, match="is no journal of replies"):
        Journal(tmp_path / "text.sqlite")
    with pytest.raises(InputError, match="needs a local disk"):
        Journal("memory://journal.sqlite")  # type: ignore[arg-type]  # as a command line may give it
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match="cannot be"):
        Journal(tmp_path / "file" / "journal.sqlite")


def test_jobs_run_in_their_order_and_no_more_at_a_time_than_allowed():
    began: list[tuple[int, int]] = []
    flying, most = 0, 0

    async def work(rank: int, number: int) -> list[Job]:
        nonlocal flying, most
        began.append((rank, number))
        flying += 1
        most = max(most, flying)
        assert len(asyncio.all_tasks()) <= 5, "a task waits for each job"
        await asyncio.sleep(0.001)
        flying -= 1
        return [Job(1, (number, i), work, (1, 10 * number + i)) for i in range(10)] if rank == 0 else []

    asyncio.run(jobs.run([Job(0, (number,), work, (0, number)) for number in range(5)], 3))
    assert most == 3 and len(began) == 55
    assert began[:5] == [(0, number) for number in range(5)]
    assert sorted(began[5:]) == [(1, number) for number in range(50)]


def test_the_first_error_is_raised_after_the_running_jobs_have_ended():
    ended: list[int] = []

    async def work(number: int) -> tuple[Job, ...]:
        await asyncio.sleep(0.002 * number)
        if number == 1:
            raise WorkError("the disk is full")
        ended.append(number)
        return ()

    with pytest.raises(WorkError, match="disk is full"):
        asyncio.run(jobs.run([Job(0, (number,), work, (number,)) for number in range(50)], 4))
    assert ended == [0, 2, 3, 4]


@pytest.mark.slow
def test_after_kills_the_files_are_those_of_a_run_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And no question is asked again whose reply is on disk."""
    monkeypatch.chdir(tmp_path)
    Path("calm.md").write_text(small.SPEC)
    log = tmp_path / "asked.log"
    writer = {"seconds": 0.03, "faults": ["cut", "prose", "empty"], "log": str(log)}
    config = small.settings_of(Path("calm.md"), writer, plan={"documents_per_assertion": 8}, run={"concurrency": 6})
    fields = settings.to_json(config)
    source = "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({})\n"
    Path("config.py").write_text(source.replace("{}", repr(fields)))
    command = [sys.executable, "-m", "msm_jax.generate", "--config=config.py", "--workdir=run"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    kills = 0
    for replies in (4, 25, 60):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        while process.poll() is None and _replies(Path("run/journal.sqlite")) < replies:
            time.sleep(0.002)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = log.read_text().splitlines()
    assert kills == 3 and len(asked) - len(set(asked)) <= 3 * 6
    whole = settings.build(type(config), {**fields, "writer": {**fields["writer"], "arguments": {**writer, "log": ""}}})
    small.generate(whole, tmp_path / "whole")
    for name in ("documents.jsonl", "dropped.jsonl", "coverage.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _replies(path: Path) -> int:
    """Returns how many replies a journal holds, while another process writes it."""
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM replies").fetchone()[0])
    except sqlite3.OperationalError:  # its table does not exist yet
        return 0


def test_jobs_that_take_equally_long_do_not_start_all_at_once():
    """Where they did, all replies would come at once, and nothing would be in flight while they are read."""
    began: list[float] = []

    async def work() -> list[Job]:
        began.append(time.monotonic())
        await asyncio.sleep(0.2)
        return []

    asyncio.run(jobs.run([Job(0, (number,), work, ()) for number in range(200)], 20))
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(began[100:]))
    assert gaps[len(gaps) // 2] > 0.6 * 0.1 / 20, "20 starts are spread over half of 0.2 s"
