"""The token cache: built once, by the first process that needs it, and refused if it is damaged."""

import json
import multiprocessing
import os
import re
from collections.abc import Mapping
from pathlib import Path

import loader_data
import pytest
from loader_data import TEMPLATE, Data, same

from msm_jax.data.cache import open_cache
from msm_jax.data.config import SourceConfig
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError, WorkError


@pytest.fixture(scope="module")
def data(tiny_tokenizer: Tokenizer, tiny_corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Data:
    return loader_data.write(tmp_path_factory.mktemp("data"), tiny_tokenizer, tiny_corpus)


def test_cache_is_built_once_and_moves_with_the_data(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes((data.root / "chats.jsonl").read_bytes())
    config = SourceConfig(str(file), "chats")
    first = open_cache(config, data.tokenizer, TEMPLATE, tmp_path / "cache")
    moved = SourceConfig(str(file.rename(tmp_path / "b.jsonl")), "chats")
    monkeypatch.setattr(type(data.tokenizer), "encode_batch", lambda *_: pytest.fail("tokenised twice"))
    second = open_cache(moved, data.tokenizer, TEMPLATE, tmp_path / "cache")
    assert first.address == second.address
    assert (first.tokens == second.tokens).all()
    assert second.where(2) == f"{tmp_path}/b.jsonl:3"


def test_damaged_cache_is_refused(data: Data, tmp_path: Path) -> None:
    config = data.sources["chats"]
    open_cache(config, data.tokenizer, TEMPLATE, tmp_path)
    (file,) = tmp_path.glob("*/mask.bin")
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(WorkError, match=re.escape(f"{file.parent}: the token cache is damaged")):
        open_cache(config, data.tokenizer, TEMPLATE, tmp_path)


def test_failed_build_leaves_nothing(data: Data, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"text": "good"}) + "\n{}\n")
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match=re.escape(f"{file}:2: ")):
        open_cache(SourceConfig(str(file)), data.tokenizer, TEMPLATE, cache)
    assert not cache.exists()
    file.write_text(json.dumps({"text": "good"}))
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="cannot be written: Not a directory"):
        open_cache(SourceConfig(str(file)), data.tokenizer, TEMPLATE, tmp_path / "file" / "cache")


@pytest.mark.parametrize("change", ["appended", "vanished"])
def test_a_file_that_changes_while_it_is_read_is_refused_and_leaves_nothing(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Otherwise its tokens would be found under the hash of what it held before."""
    kind = type(data.tokenizer)
    file, encode = tmp_path / "a.jsonl", kind.encode_batch
    file.write_text(json.dumps({"text": "one"}) + "\n")

    def changes(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        if change == "vanished":
            file.unlink()
        else:
            file.write_text(file.read_text() + json.dumps({"text": "two"}) + "\n")
        return encode(self, texts)

    monkeypatch.setattr(kind, "encode_batch", changes)
    words = "changed while it was read; run again when it is complete" if change == "appended" else "no such file"
    with pytest.raises(InputError, match=f"{file}: {words}"):
        open_cache(SourceConfig(str(file)), data.tokenizer, TEMPLATE, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def _build(root: Path, model: Mapping[str, bytes], barrier: "multiprocessing.synchronize.Barrier") -> None:
    loader_data = Data(root, Tokenizer.from_files(model))
    barrier.wait()
    loader_data.loader().batch(0)


def test_processes_may_build_one_cache_at_once(data: Data, tmp_path: Path) -> None:
    for file in data.root.glob("*.jsonl"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [
        context.Process(target=_build, args=(tmp_path, data.tokenizer.files(), barrier)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    built = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert len(built) == 2
    assert not [name for name in built if name.startswith(".")]
    assert same(Data(tmp_path, data.tokenizer).loader().batch(1), data.loader().batch(1))


def test_cache_dir_of_the_config_wins(data: Data, tmp_path: Path) -> None:
    data.loader(data.config(cache_dir=str(tmp_path / "mine")))
    assert len(os.listdir(tmp_path / "mine")) == 2
