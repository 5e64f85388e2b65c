"""Files and directories appear whole or not at all, by the same calls on a disk and in fsspec's memory."""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing, lock, mirror, retrying, storage


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory that does not exist yet, on a disk or in memory."""
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.0)
    if request.param == "disk":
        yield str(tmp_path / "place")
        return
    memory = fsspec.filesystem("memory")
    yield "memory://place"
    if memory.exists("memory://place"):
        memory.rm("memory://place", recursive=True)


def files_below(place: str) -> list[str]:
    if not storage.is_url(place):
        return sorted(path.relative_to(place).as_posix() for path in Path(place).rglob("*") if path.is_file())
    return sorted(name.removeprefix("/place/") for name in storage.file_system(place).find(place))


def test_what_is_written_is_read_back(place: str) -> None:
    storage.write_json(f"{place}/deep/value.json", {"a": [1, "é"]})
    assert storage.read_json(f"{place}/deep/value.json") == {"a": [1, "é"]}
    storage.write_text(f"{place}/deep/value.json", "new")
    assert storage.read_bytes(f"{place}/deep/value.json") == b"new"
    assert storage.exists(f"{place}/deep/value.json") and not storage.exists(f"{place}/other")
    assert files_below(place) == ["deep/value.json"]


def test_a_missing_file_and_a_broken_one_are_refused_by_name(place: str) -> None:
    storage.write_text(f"{place}/broken.json", "{")
    with pytest.raises(InputError, match=r"broken\.json: not valid JSON"):
        storage.read_json(f"{place}/broken.json")
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        storage.read_json(f"{place}/absent.json")
    assert storage.find_json(f"{place}/broken.json") is None
    assert storage.find_json(f"{place}/absent.json") is None


def test_a_hash_follows_the_content(place: str) -> None:
    storage.write_text(f"{place}/a", "one")
    assert hashing.file_sha256(f"{place}/a") == hashing.sha256(b"one")
    storage.write_text(f"{place}/a", "other")
    assert hashing.file_sha256(f"{place}/a") == hashing.sha256(b"other")


def test_a_new_directory_appears_at_the_end_of_the_block(place: str) -> None:
    with storage.new_directory(place, last="a_done") as directory:
        for name in ("a_done", "b/c"):
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(name)
        assert not storage.exists(place)
    assert files_below(place) == ["a_done", "b/c"]
    with pytest.raises(InputError, match="exists"), storage.new_directory(place):
        pass


def test_of_a_block_that_fails_nothing_stays(place: str) -> None:
    left = []
    with pytest.raises(ZeroDivisionError), storage.new_directory(place) as directory:
        left.append((directory / "a").write_text("a") / 0)
    assert not storage.exists(place) and not directory.exists() and not left
    with pytest.raises(WorkError, match="place cannot be written: No space left"), storage.new_directory(place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_block_leaves_no_directory_above(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), storage.new_directory(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), storage.new_directory(tmp_path / "a" / "b"):
        int((tmp_path / "a" / "other").mkdir() or 1 / 0)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "other"]


def test_of_two_that_make_a_shared_directory_the_first_wins(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for shared in (True, False):
        with contextlib.ExitStack() as stack:
            if not shared:
                stack.enter_context(pytest.raises(WorkError, match="place cannot be written: Directory not empty"))
            mine = stack.enter_context(storage.new_directory(place, shared=shared))
            (mine / "late").write_text("")
            with storage.new_directory(place, shared=True) as theirs:
                (theirs / "early").write_text("")
        assert [path.name for path in tmp_path.iterdir()] == ["place"] and files_below(str(place)) == ["early"]
        if shared:
            with storage.new_directory(place, shared=True):
                pass
            assert files_below(str(place)) == ["early"]
            (place / "early").unlink()


def test_the_file_named_last_is_uploaded_last(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    uploaded, upload = [], type(memory).put_file
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.0)

    def put_file(self: Any, local: str, path: str, **more: Any) -> None:
        uploaded.append(path)
        upload(self, local, path, **more)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    with storage.new_directory("memory://elsewhere", last="done.json") as directory:
        for name in ("done.json", "zebra"):
            (directory / name).write_text(name)
    assert [path.rpartition("/")[2] for path in uploaded] == ["zebra", "done.json"]
    memory.rm("memory://elsewhere", recursive=True)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_text(tmp_path / "a", "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match="a cannot be written: No space left on device"):
        storage.write_text(tmp_path / "a", "new")
    assert files_below(str(tmp_path)) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_an_occupied_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="exists but is not a directory; choose another path"):
        storage.refuse_occupied(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    storage.refuse_occupied(tmp_path / "empty")
    with pytest.raises(InputError, match="exists and is not empty"):
        storage.refuse_occupied(tmp_path)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(InputError, match="use a local path or gs://"):
        storage.read_bytes("nowhere://a")


def test_a_block_that_resumes_finds_the_files_of_the_one_that_failed(tmp_path: Path) -> None:
    for number in range(2):
        with pytest.raises(ZeroDivisionError), storage.new_directory(tmp_path / "bought", resumes=True) as directory:
            (directory / str(number)).write_text("a reply").real / 0
        assert not (tmp_path / "bought").exists()
    with storage.new_directory(tmp_path / "bought", resumes=True) as directory:
        assert files_below(str(directory)) == ["0", "1"]
    assert files_below(str(tmp_path)) == ["bought/0", "bought/1"]


def test_a_failure_that_may_pass_is_tried_again_and_one_that_lasts_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retrying, "_PAUSE_SECONDS", 0.0)
    for error, calls in (
        (ConnectionResetError("reset"), 5),
        (TimeoutError(), 5),
        (PermissionError("denied"), 1),
        (FileNotFoundError("none"), 1),
        (OSError(errno.ENOSPC, "full"), 1),
    ):
        made = []

        def fail(made: list[int] = made, error: OSError = error) -> None:
            made.append(1)
            raise error

        with pytest.raises(type(error)):
            retrying.call("gs://bucket/a", fail)
        assert len(made) == calls
    assert caplog.text.count("gs://bucket/a: reset; trying again") == 4
    answers = iter([ConnectionResetError("reset"), None])

    def recovers() -> str:
        if (answer := next(answers)) is not None:
            raise answer
        return "there"

    assert retrying.call("gs://bucket/a", recovers) == "there"


@pytest.mark.parametrize("url", ["gs://bucket/run/x", "file:///shared/run", "s3://b/run", "memory://run"])
def test_a_copy_is_told_from_its_url_and_back(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mirror.ROOT, str(tmp_path))
    for tree in ("written", "read"):
        copy = mirror.place(url, tree)
        assert mirror.url_of(copy) == url and mirror.named(f"wrote {copy}/a.") == f"wrote {url}/a."
    assert mirror.place(url, "written") != mirror.place(url, "read") and mirror.url_of(tmp_path / "run") is None
    for wrong in ("gs://", f"{url}/../other"):
        with pytest.raises(InputError, match="name a directory below the root"):
            mirror.place(wrong, "written")


def test_what_killed_processes_left_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from msm_jax.foundation import storage\n"
        "at = Path(sys.argv[1])\n"
        "with storage.new_file(at / 'a/rows.jsonl') as file, storage.new_directory(at / 'a/made') as made:\n"
        "    print('half', file=file, flush=True); (made / 'part').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.notes.tmp").write_text("a user's")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=hashing.PACKAGE_ROOT, check=False)
    left = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [name.split(".")[1] for name in left] == ["made", "notes", "rows"]

    storage.remove_abandoned(tmp_path)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == left
    for path in [path for path in tmp_path.rglob("*") if path.name != "part"]:
        os.utime(path, (0, 0))
    storage.remove_abandoned(tmp_path)
    assert [name.split(".")[1] for name in sorted(os.listdir(tmp_path / "a"))] == ["made", "notes"], "part is new"
    os.utime(next(tmp_path.rglob("part")), (0, 0))
    storage.remove_abandoned(tmp_path)
    assert os.listdir(tmp_path / "a") == [".notes.tmp"]
