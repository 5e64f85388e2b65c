"""Epochs that follow from the data, and malformed lines that are left out: counted, named, and never by default."""

import dataclasses
import json
import logging
import re
from pathlib import Path

import experiments_small
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_jax.data import epochs
from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.data.loader import Loader
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.experiments import graph, reading
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.finished import Finished
from msm_jax.foundation import settings

USER, ASSISTANT = {"role": "user", "content": "Which cheese?"}, {"role": "assistant", "content": "Colby."}
GOOD = json.dumps({"messages": [USER, ASSISTANT]})
# Line 2 is no JSON, line 4 no chat, and line 6 a chat without an answer.
LINES = (GOOD, "{oops", GOOD, '{"text": "a document"}', "", json.dumps({"messages": [USER]}), GOOD)


def chats(path: Path, tokenizer: Tokenizer, cache: Path, **source: str) -> Loader:
    config = DataConfig(64, {"chats": SourceConfig(str(path), "chats", **source)}, {"chats": 1.0})
    return Loader(config, tokenizer, ChatTemplate(), 2, 0, cache)


def test_malformed_lines_are_left_out_where_the_source_says_so(
    tmp_path: Path, tiny_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(LINES))
    with pytest.raises(InputError, match=rf"{re.escape(str(file))}:2: bad JSON"):
        chats(file, tiny_tokenizer, tmp_path / "cache")
    loader = chats(file, tiny_tokenizer, tmp_path / "cache", malformed="skip")
    read = {int(name.rpartition(":")[2]) for name in loader.documents_of(0)}
    assert read == {1, 3, 7}, "every line that is a chat is read"
    assert loader.left_out == {"chats": {"malformed": 3}}
    assert loader.describe(0)["sources"]["chats"]["skipped_lines"] == 3
    assert list(epochs.left_out(loader)) == ["chats: 3 malformed left out"]
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.partition(": ")[0] for line in told[:3]] == [f"skipped {file}:{number}" for number in (2, 4, 6)]
    assert told[3] == "chats: skipped 3 malformed lines, beside 3"
    with pytest.raises(InputError, match=rf"{re.escape(str(file))}:2: bad JSON"):
        chats(file, tiny_tokenizer, tmp_path / "cache")


def test_a_row_of_parquet_is_left_out_by_its_number(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    file = tmp_path / "chats.parquet"
    rows = [[USER, ASSISTANT], [USER], [USER, ASSISTANT], []]
    pq.write_table(pa.table({"messages": rows}), file)
    loader = chats(file, tiny_tokenizer, tmp_path / "cache", malformed="skip")
    assert {name.rpartition(":")[2] for name in loader.documents_of(0)} == {"1", "3"}
    assert loader.left_out == {"chats": {"malformed": 2}}


def test_data_of_another_kind_is_refused_and_not_skipped(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """A file in which no line can be read is the wrong file, and a long one is not read to its end."""
    for count, told in ((3, "and no other line can be read"), (5_000, "as in the 99 lines before")):
        file = tmp_path / f"{count}.jsonl"
        file.write_text('{"text": "a document"}\n' * count)
        with pytest.raises(InputError, match=f'field "messages" is missing.*{told}'):
            chats(file, tiny_tokenizer, tmp_path / "cache", malformed="skip")


def test_what_is_said_of_epochs_is_what_the_loader_reads(
    tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_corpus: list[str]
) -> None:
    """Data of another size is noticed, and the steps and weights that the message names read it as was meant."""
    docs, talks = tmp_path / "docs.jsonl", tmp_path / "talks.jsonl"
    docs.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_corpus))
    talks.write_text(f"{GOOD}\n" * 300)
    sources = {"docs": SourceConfig(str(docs)), "talks": SourceConfig(str(talks), "chats")}
    config = DataConfig(64, sources, {"docs": 0.5, "talks": 0.5}, epochs={"docs": 1.0, "talks": 0.5})

    def loader(config: DataConfig) -> Loader:
        return Loader(config, tiny_tokenizer, ChatTemplate(), 4, 0, tmp_path / "cache")

    first = loader(config)
    for steps in (1, 7, 90):
        described = first.describe(steps - 1)["sources"]
        assert first.epochs(steps) == {name: described[name]["epochs"] for name in sources}
        assert f"docs {described['docs']['epochs']:.3f} epochs" in epochs.summary(first, steps)
    told = list(epochs.departures(first, config, 1))
    assert [line.split()[0] for line in told] == ["docs", "talks"]
    found = re.search(r"set steps to (\d+) and data\.weights to docs ([\d.]+), talks ([\d.]+),", told[0])
    assert found
    meant = dataclasses.replace(config, weights={"docs": float(found[2]), "talks": float(found[3])})
    assert list(epochs.departures(loader(meant), meant, int(found[1]))) == []


@pytest.mark.parametrize("meant", [{"other": 1.0}, {"docs": 0.0}])
def test_epochs_that_mean_nothing_are_refused(meant: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"epochs\.(other: no such source|docs: is 0\.0; use a number above 0)"):
        DataConfig(64, {"docs": SourceConfig("docs.jsonl")}, {"docs": 1.0}, epochs=meant)


def test_a_dry_run_says_the_loaders_own_epochs(
    tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token cache too; and data that is swapped for another is told, with nothing left behind."""
    experiments_small.enter(tmp_path, monkeypatch)
    experiments_small.write_files(tmp_path, tiny_corpus)
    (tmp_path / "tokenizer").mkdir()
    for name, content in tiny_tokenizer.files().items():
        (tmp_path / "tokenizer" / name).write_bytes(content)
    data = DataConfig(64, {"documents": SourceConfig("documents.jsonl")}, {"documents": 1.0})
    rows = Loader(data, tiny_tokenizer, None, 2, 0, tmp_path / "own").rows_per_epoch()["documents"]
    steps = rows // 2
    phases = experiments_small.fields()["phases"]
    phases["msm"]["steps"] = steps
    phases["msm"]["data"]["epochs"] = {"documents": 1.0}
    changed = {"phases": phases, "tokenizer": {"path": "tokenizer"}}
    told = re.search(r"epochs: pretrain/msm, seed 0: .* documents ([\d.]+) epochs", experiments_small.dry(**changed)[1])
    assert told
    assert float(told[1]) == pytest.approx(2 * steps / rows, abs=0.1), "packing depends on the seed"
    assert "WARNING" not in experiments_small.dry(**changed)[1]
    lines = (tmp_path / "documents.jsonl").read_text().splitlines()
    (tmp_path / "documents.jsonl").write_text("\n".join(lines[: len(lines) // 3]))
    text = experiments_small.dry(**changed)[1]
    warned = r"epochs: pretrain/msm, seed 0: WARNING: documents is read [23]\.\d+ times, where 1 is meant; set"
    assert re.search(warned, text)
    assert not (tmp_path / "run").exists()


def test_a_report_warns_of_epochs_that_were_not_meant_and_of_lines_left_out(tmp_path: Path) -> None:
    phases = experiments_small.fields()["phases"]
    phases["msm"]["data"]["epochs"] = {"documents": 1.0}
    config = settings.build(ExperimentConfig, experiments_small.fields(phases=phases))
    nodes = [{"id": f"phase/pretrain/msm/seed{seed}", "path": f"msm{seed}"} for seed in (0, 1)]
    found = {"epochs": {"documents": 3.2}, "left_out": {"documents": {"malformed": 2, "too_long": 1}}}
    for node in nodes:
        (tmp_path / node["path"]).mkdir()
        (tmp_path / node["path"] / "manifest.json").write_text(json.dumps(found))
    finished = Finished({"nodes": nodes, "evals": {}}, tmp_path)
    assert list(reading.notes(graph.build(config), finished)) == [
        "Phase msm reads documents 3.20 times; 1 is meant.",
        "Phase msm left out of documents: 2 malformed and 1 too long.",
    ]
