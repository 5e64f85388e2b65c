"""Places of data: Parquet and JSONL files, a bucket, and the Hugging Face cache; and the errors for bad files."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from msm_jax.data import files, parquet, sources
from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.data.loader import Loader
from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing, storage

DOCUMENTS = [{"text": f"text {i} é", "domain": f"d{i % 3}"} for i in range(150)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Which lamp, {i}?"},
            {"role": "assistant", "content": f"The old lamp, {i}."},
        ],
        "source": "lima",
    }
    for i in range(30)
]


def lines(records: list[dict]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def write_parquet(file: Path, records: list[dict], rows: int = 40) -> str:
    pq.write_table(pa.Table.from_pylist(records), file, row_group_size=rows)
    return str(file)


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/bucket", recursive=True)


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    for name, records, read in (("d", DOCUMENTS, sources.iter_documents), ("c", CHATS, sources.iter_chats)):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(records))
        by_line = list(read(str(tmp_path / f"{name}.jsonl")))
        by_row = list(read(write_parquet(tmp_path / f"{name}.parquet", records)))
        assert [(r.meta, r.where.rpartition(":")[2]) for r in by_row] == [
            (r.meta, r.where.rpartition(":")[2]) for r in by_line
        ]
        assert [r.text if name == "d" else r.messages for r in by_row] == [
            r.text if name == "d" else r.messages for r in by_line
        ]


def test_keys_that_only_other_rows_have_are_absent_not_null(tmp_path: Path) -> None:
    """Parquet gives every row every column: a message without tool calls, a document without meta."""
    messages = [[{"role": "user", "content": "q", "name": "Ann"}, {"role": "assistant", "content": "a", "name": None}]]
    file = write_parquet(tmp_path / "a.parquet", [{"messages": m, "meta": None} for m in messages])
    ((_, row),) = parquet.rows(file)
    assert row["messages"] == [{"role": "user", "content": "q", "name": "Ann"}, {"role": "assistant", "content": "a"}]
    assert len(list(sources.iter_chats(file))) == 1


@pytest.mark.parametrize(
    ("kind", "record", "message"),
    [
        ("documents", {"text": None}, 'field "text" is null'),
        ("documents", {"text": "  "}, 'field "text" is empty'),
        ("chats", {"messages": [{"role": "bot", "content": "x"}]}, 'field "messages[0].role" is "bot"'),
        ("chats", {"messages": [{"role": "user", "content": None}]}, 'field "messages[0].content" is missing'),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_field(tmp_path: Path, kind: str, record: dict, message: str) -> None:
    good, read = (DOCUMENTS, sources.iter_documents) if kind == "documents" else (CHATS, sources.iter_chats)
    file = write_parquet(tmp_path / "a.parquet", [*good, {**good[0], **record}, *good])
    with pytest.raises(InputError) as error:
        list(read(file))
    assert str(error.value).startswith(f"{file}:{len(good) + 1}: ")
    assert message in str(error.value)


def test_another_column_is_a_missing_field(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [{"body": "x"}])
    with pytest.raises(InputError, match=re.escape(f'{file}:1: field "text" is missing')):
        list(sources.iter_documents(file))


def test_damaged_parquet_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = Path(write_parquet(tmp_path / "a.parquet", DOCUMENTS)).read_bytes()
    file = tmp_path / "b.parquet"
    middle = whole.rindex(b"text 149")
    damaged = whole[: middle - 400] + b"\xff" * 500 + whole[middle + 100 :]
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", whole[: len(whole) // 2], damaged):
        file.write_bytes(content)
        with pytest.raises(InputError) as error:
            list(sources.iter_documents(str(file)))
        assert str(error.value).startswith(str(file))
        assert "\n" not in str(error.value)
        assert "fetch it again" in str(error.value)
    file.write_bytes(whole)
    assert len(list(sources.iter_documents(str(file)))) == len(DOCUMENTS)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="the file is empty"):
        list(sources.iter_documents(str(tmp_path / "a.parquet")))


_PEAK = """
import sys
from pathlib import Path
from msm_jax.data import parquet

def kilobytes(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])

next(parquet.rows(sys.argv[2]))
Path("/proc/self/clear_refs").write_text("5")  # the peak so far no longer counts
before = kilobytes("VmRSS")
count = sum(1 for _ in parquet.rows(sys.argv[1]))
print(count, kilobytes("VmHWM") - before)
"""


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """160 MiB of text in one row group, as some exports have it; the decoder's own pools keep some 75 MiB."""
    generator = np.random.default_rng(0)
    texts = [generator.bytes(8 << 10).hex() for _ in range(10 << 10)]
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": texts}), file, row_group_size=len(texts), compression="none", use_dictionary=False
    )
    write_parquet(tmp_path / "small.parquet", DOCUMENTS)
    command = [sys.executable, "-c", _PEAK, str(file), str(tmp_path / "small.parquet")]
    count, kilobytes = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert count == len(texts)
    assert kilobytes < 110 << 10


def test_a_bucket_holds_what_a_directory_does(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    """Every format, globs and comma lists, by URL: the texts, names and hashes are those of local files."""
    text = lines(DOCUMENTS)
    stored = {"a.jsonl": text, "b.jsonl.gz": gzip.compress(text), "c.jsonl.zst": zstandard.compress(text)}
    stored["d.parquet"] = Path(write_parquet(tmp_path / "d.parquet", DOCUMENTS)).read_bytes()
    for name, content in stored.items():
        bucket.pipe_file(f"/bucket/docs/{name}", content)
        (tmp_path / name).write_bytes(content)
        remote, local = f"memory://bucket/docs/{name}", str(tmp_path / name)
        assert [(d.text, d.meta) for d in sources.iter_documents(remote)] == [
            (d.text, d.meta) for d in sources.iter_documents(local)
        ]
        assert hashing.file_sha256(remote) == hashing.file_sha256(local)
    found = files.resolve("memory://bucket/docs/*.jsonl*, memory://bucket/docs/d.parquet")
    assert [file.rpartition("/")[2] for file in found] == sorted(stored)
    assert all(file.startswith("memory://") for file in found)
    (document, *_) = sources.iter_documents(found[0])
    assert document.where == f"{found[0]}:1"
    assert sources.data_sha256("memory://bucket/docs/*.jsonl*") == sources.data_sha256(f"{tmp_path}/*.jsonl*")


def test_a_file_that_changes_in_the_bucket_is_hashed_again(bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("/bucket/a.jsonl", b"one")
    first = hashing.file_sha256("memory://bucket/a.jsonl")
    bucket.pipe_file("/bucket/a.jsonl", b"another")
    assert hashing.file_sha256("memory://bucket/a.jsonl") != first


def test_training_rows_come_from_a_bucket(bucket: fsspec.AbstractFileSystem, tmp_path: Path, tiny_tokenizer) -> None:
    bucket.pipe_file("/bucket/chats.jsonl", lines(CHATS))
    config = DataConfig(64, {"chats": SourceConfig("memory://bucket/chats.jsonl", "chats")}, {"chats": 1.0})
    loader = Loader(config, tiny_tokenizer, ChatTemplate(), batch_rows=2, seed=0, cache_dir=tmp_path)
    assert loader.batch(0).loss_mask.any()
    assert all(name.startswith("memory:") for name in loader.documents_of(0))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://bucket/none.jsonl", "no such file"),
        ("memory://bucket/none-*.jsonl", "no file matches"),
        ("gopher://bucket/a.jsonl", "use a local path or gs://"),
        ("hf://chloeli/msm/dataset.jsonl", "not of the form hf://datasets/OWNER/NAME"),
    ],
)
def test_a_url_that_names_nothing_is_refused(path: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(path)) as error:
        files.resolve(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_gs_without_its_package_says_what_to_install() -> None:
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    with pytest.raises(InputError, match=r"gs://bucket/a\.jsonl: .*gcsfs"):
        files.resolve("gs://bucket/a.jsonl")


def test_a_storage_that_fails_is_a_failure_during_work() -> None:
    message = r"^gs://b/a: reading fails \(the net is down\); run again"
    with pytest.raises(WorkError, match=message), storage.reading("gs://b/a"):
        raise ConnectionError("the net\nis down")
    with pytest.raises(InputError, match=r"^gs://b/a: not readable"), storage.reading("gs://b/a"):
        raise PermissionError
    with pytest.raises(InputError, match=r"^gs://b/a: not readable \(Forbidden: .*credentials$"), storage.reading("gs://b/a"):
        raise OSError("Forbidden: https://storage/b/a\ndenied")


COMMIT = "ab45fbfa000e5dfc368151dca7bf1852728bfa52"


def test_a_public_data_set_is_read_where_the_hub_client_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    repository = tmp_path / "hub" / "datasets--someone--some-docs"
    (repository / "snapshots" / COMMIT / "data").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT / "dataset.jsonl").write_bytes(lines(DOCUMENTS))
    for i in range(2):
        write_parquet(repository / "snapshots" / COMMIT / "data" / f"train-{i}.parquet", DOCUMENTS)
    for url in ("hf://datasets/someone/some-docs/dataset.jsonl", f"hf://datasets/someone/some-docs@{COMMIT}/dataset.jsonl"):
        assert len(list(sources.iter_documents(url))) == len(DOCUMENTS)
    both = sources.iter_documents("hf://datasets/someone/some-docs/data/train-*.parquet")
    assert len(list(both)) == 2 * len(DOCUMENTS)
    for url in (
        "hf://datasets/someone/other/dataset.jsonl",
        "hf://datasets/someone/some-docs/other.jsonl",
        f"hf://datasets/someone/some-docs@{COMMIT[::-1]}/dataset.jsonl",
    ):
        with pytest.raises(InputError) as error:
            files.resolve(url)
        assert str(error.value).startswith(f"{url}: not in {tmp_path / 'hub'}; check its licence")
        assert "hf download someone/" in str(error.value)
        assert "\n" not in str(error.value)
