"""The loader: every slot of every document once per epoch, and batches that follow from the step alone."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import loader_data
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loader_data import SEQ_LEN, TEMPLATE, Data, same

from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.data.loader import Batch, Loader
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError


@pytest.fixture(scope="module")
def data(tiny_tokenizer: Tokenizer, tiny_corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Data:
    return loader_data.write(tmp_path_factory.mktemp("data"), tiny_tokenizer, tiny_corpus)


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def segments(loader: Loader, step: int) -> list[tuple[str, list[int], list[int], list[bool], list[int]]]:
    """("file:line", inputs, targets, loss, positions) of each segment in a batch, read slot by slot."""
    batch = loader.batch(step)
    out = []
    for row, names in enumerate(loader.segments_of(step)):
        for number, name in enumerate(names, 1):
            at = np.flatnonzero(batch.segment_ids[row] == number)
            fields = (batch.tokens, batch.targets, batch.loss_mask, batch.positions)
            out.append((name, *(array[row, at].tolist() for array in fields)))
    return out


def rows_per_epoch(loader: Loader) -> dict[str, int]:
    return {name: s["rows_per_epoch"] for name, s in loader.describe(0)["sources"].items()}


@pytest.mark.parametrize("name", ["docs", "chats"])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_every_target_once_per_epoch(data: Data, name: str, epoch: int) -> None:
    """One source, one row a batch: each epoch holds each document's tokens and mask exactly once."""
    config = DataConfig(SEQ_LEN, {name: data.sources[name]}, {name: 1.0})
    loader = data.loader(config, batch_rows=1)
    rows = rows_per_epoch(loader)[name]
    found: dict[str, list[tuple[list[int], list[int], list[bool]]]] = {}
    for step in range(epoch * rows, (epoch + 1) * rows):
        for where, inputs, targets, loss, positions in segments(loader, step):
            assert positions == list(range(len(inputs)))
            assert inputs[1:] == targets[:-1]
            found.setdefault(where, []).append((inputs, targets, loss))
    expected = {w: s for w, s in data.sequences.items() if ("chats" in Path(w).name) == (name == "chats")}
    assert found.keys() == expected.keys()
    for where, (ids, mask) in expected.items():
        chunks = [slice(start, start + SEQ_LEN) for start in range(0, len(ids) - 1, SEQ_LEN)]
        want = [(ids[:-1][c], ids[1:][c], mask[1:][c]) for c in chunks]
        assert sorted(found[where]) == sorted(want)
    assert any(len(ids) > 2 * SEQ_LEN for ids, _ in expected.values()) == (name == "docs")


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=25),
    seq_len=st.integers(2, 30),
    seed=st.integers(0, 9),
)
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_are_conserved(
    tiny_tokenizer: Tokenizer, tmp_path: Path, lengths: list[int], seq_len: int, seed: int
) -> None:
    """For any lengths: the targets of an epoch are the tokens of the documents, once each."""
    file = tmp_path / "any.jsonl"
    texts = [" ".join(["cheese"] * n) + f" {i}" for i, n in enumerate(lengths)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = DataConfig(seq_len, {"x": SourceConfig(str(file))}, {"x": 1.0})
    loader = Loader(config, tiny_tokenizer, TEMPLATE, 1, seed, tmp_path / "cache")
    found: Counter[int] = Counter()
    for step in range(rows_per_epoch(loader)["x"]):
        batch = loader.batch(step)
        found.update(batch.targets[batch.segment_ids > 0].tolist())
    wanted = Counter(i for text in texts for i in [*tiny_tokenizer.encode(text), tiny_tokenizer.eos_id])
    assert found == wanted


def test_shape_and_padding(data: Data) -> None:
    loader = data.loader()
    for step in range(20):
        batch = loader.batch(step)
        assert {a.dtype for a in batch} == {np.dtype(np.int32), np.dtype(np.bool_)}
        assert [a.shape for a in batch] == [(8, SEQ_LEN)] * 5 + [(8,)]
        padding = batch.segment_ids == 0
        assert not batch.loss_mask[padding].any()
        assert (batch.tokens[padding] == data.tokenizer.pad_id).all()
        assert (batch.targets[padding] == data.tokenizer.pad_id).all()
        assert (batch.positions[padding] == 0).all()
        assert (np.diff(padding.astype(int), axis=1) >= 0).all()


STAGES: tuple[tuple[int, Mapping[str, float]], ...] = ((7, {"docs": 1.0}), (15, {"docs": 1.0, "chats": 3.0}))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batch(data: Data, hosts: int) -> None:
    loaders = [data.loader(data.config(stages=STAGES)) for _ in range(hosts)]
    whole = data.loader(data.config(stages=STAGES))
    rows = rows_per_epoch(whole)
    last = 3 * max(rows.values()) // 8
    assert whole.describe(last)["sources"]["docs"]["epochs"] > 1, "crosses the end of an epoch"
    for step in range(last):
        assert same(
            joined([loader.host_batch(step, host, hosts) for host, loader in enumerate(loaders)]),
            whole.batch(step),
        )


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("start", [0, 6, 41])
def test_any_thread_count_and_any_restart_give_the_same_batches(data: Data, threads: int, start: int) -> None:
    config = data.config(stages=STAGES)
    # A restart asks for later steps first, and has nothing in memory.
    expected = [data.loader(config).batch(step) for step in range(start, start + 20)]
    found = list(itertools.islice(data.loader(config).iterate(start, threads), 20))
    assert all(map(same, found, expected))
    host = list(itertools.islice(data.loader(config).iterate(start, threads, host=1, num_hosts=2), 5))
    assert all(same(a, Batch(*(x[4:] for x in b))) for a, b in zip(host, expected, strict=False))


def test_order_is_new_in_every_epoch(data: Data) -> None:
    config = DataConfig(SEQ_LEN, {"docs": data.sources["docs"]}, {"docs": 1.0})
    loader = data.loader(config, batch_rows=1)
    rows = rows_per_epoch(loader)["docs"]
    epochs = [[tuple(loader.segments_of(epoch * rows + i)[0]) for i in range(rows)] for epoch in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seed_and_data_alone_decide_the_batches(data: Data, tmp_path: Path) -> None:
    def hashes(loader: Loader) -> list[bytes]:
        return [b"".join(a.tobytes() for a in loader.batch(step)) for step in range(5)]

    loader = data.loader()
    again = Loader(data.config(), data.tokenizer, TEMPLATE, 8, 3, tmp_path)
    assert hashes(loader) == hashes(again)
    assert loader.fingerprint == again.fingerprint
    assert hashes(loader) != hashes(data.loader(seed=4))


def test_a_source_keeps_its_order_when_others_come_and_go(data: Data) -> None:
    alone = data.loader(DataConfig(SEQ_LEN, {"chats": data.sources["chats"]}, {"chats": 1.0}), batch_rows=1)
    mixed = data.loader(batch_rows=1)
    in_mixture = [
        mixed.segments_of(s)[0]
        for s in range(60)
        if mixed.source_names[mixed.batch(s).source_ids[0]] == "chats"
    ]
    assert in_mixture == [alone.segments_of(step)[0] for step in range(len(in_mixture))]


def test_held_out_documents_never_occur_in_training(data: Data) -> None:
    config = data.config(holdout=0.1)
    by_seed = []
    for seed in (0, 1):
        loader = data.loader(config, seed=seed)
        steps = 1 + 3 * max(rows_per_epoch(loader).values()) * 3 // 8
        assert min(s["epochs"] for s in loader.describe(steps - 1)["sources"].values()) > 3
        trained = {name for step in range(steps) for name in loader.documents_of(step)}
        held = data.sequences.keys() - trained
        by_seed.append(held)
        for name, s in loader.describe(0)["sources"].items():
            of_source = {where for where in held if Path(where).name.startswith(name)}
            assert (
                len(of_source)
                == s["held_out_documents"]
                == round(0.1 * (s["held_out_documents"] + s["documents"]))
            )
    assert by_seed[0] == by_seed[1]


def test_holdout_batches_hold_the_held_out_documents(data: Data) -> None:
    config = data.config(holdout=0.1)
    loader = data.loader(config)
    steps = 4 * max(rows_per_epoch(loader).values()) // 8
    held = data.sequences.keys() - {name for step in range(steps) for name in loader.documents_of(step)}
    for number, name in enumerate(loader.source_names):
        batches = loader.holdout_batches(name, 1000)
        assert all(b.tokens.shape == (8, SEQ_LEN) and (b.source_ids == number).all() for b in batches)
        targets = Counter(i for b in batches for i in b.targets[b.segment_ids > 0].tolist())
        loss = sum(int(b.loss_mask.sum()) for b in batches)
        expected = [data.sequences[w] for w in held if Path(w).name.startswith(name)]
        assert targets == Counter(i for ids, _ in expected for i in ids[1:])
        assert loss == sum(sum(mask[1:]) for _, mask in expected)
        assert same(loader.holdout_batches(name, 1)[0], batches[0])
        other = data.loader(config, seed=9)
        assert same(other.holdout_batches(name, 1)[0], batches[0])
    with pytest.raises(InputError, match="no source x; the sources are chats, docs"):
        loader.holdout_batches("x", 1)
    with pytest.raises(InputError, match=r"data\.sources\.docs\.holdout: is 0"):
        data.loader().holdout_batches("docs", 1)


def test_copies_of_a_text_stay_on_one_side(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "twice.jsonl"
    file.write_text("".join(json.dumps({"text": f"cheese {i % 50}"}) + "\n" for i in range(100)))
    config = DataConfig(SEQ_LEN, {"x": SourceConfig(str(file), holdout=0.2)}, {"x": 1.0})
    loader = Loader(config, tiny_tokenizer, TEMPLATE, 4, 0, tmp_path)
    lines = {int(name.rpartition(":")[2]) for step in range(40) for name in loader.documents_of(step)}
    assert len(lines) == 80
    assert {(line - 1) % 50 for line in lines}.isdisjoint({(i - 1) % 50 for i in set(range(1, 101)) - lines})


def test_describe_counts_what_batches_hold(data: Data) -> None:
    loader = data.loader(data.config(stages=STAGES))
    total = np.zeros((2, 3), np.int64)
    for step in range(60):
        batch = loader.batch(step)
        now = np.zeros((2, 3), np.int64)
        for row, source in enumerate(batch.source_ids):
            now[source] += [1, (batch.segment_ids[row] > 0).sum(), batch.loss_mask[row].sum()]
        total += now
        described = loader.describe(step)
        assert described["fill"] == pytest.approx(now[:, 1].sum() / (8 * SEQ_LEN))
        for n, name in enumerate(loader.source_names):
            s = described["sources"][name]
            assert [s["rows"], s["tokens"], s["loss_tokens"]] == now[n].tolist()
            assert [s["rows_so_far"], s["tokens_so_far"], s["loss_tokens_so_far"]] == total[n].tolist()
            shares = [s["row_share"], s["token_share"], s["loss_token_share"]]
            assert shares == pytest.approx((now[n] / now.sum(axis=0)).tolist())
            assert s["epochs"] == pytest.approx(total[n, 0] / s["rows_per_epoch"])
        if step >= 15:
            # 3 to 1, in a batch of 8 rows.
            assert 5 <= described["sources"]["chats"]["rows"] <= 7


def test_fingerprint_changes_with_all_that_decides_the_batches(data: Data, tmp_path: Path) -> None:
    base = data.loader()
    docs = tmp_path / "docs-9.jsonl"
    docs.write_text(json.dumps({"text": "another"}))
    other_data = {**data.sources, "docs": SourceConfig(f"{data.root}/docs-*.jsonl,{docs}")}
    others = [
        data.loader(seed=4),
        data.loader(batch_rows=4),
        data.loader(data.config(seq_len=SEQ_LEN + 1)),
        data.loader(data.config(holdout=0.1)),
        data.loader(data.config(weights={"docs": 0.5, "chats": 0.5})),
        data.loader(data.config(stages=STAGES)),
        data.loader(data.config(sources=other_data)),
        Loader(
            data.config(), data.tokenizer, ChatTemplate("{# another #}" + TEMPLATE.source), 8, 3, tmp_path
        ),
    ]
    prints = [loader.fingerprint for loader in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert data.loader().fingerprint == base.fingerprint


def test_chat_longer_than_a_row_is_refused_by_file_and_line(data: Data, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    lines = [(data.root / "chats.jsonl").read_text().splitlines()[0]]
    for _ in range(2):
        messages = [{"role": "user", "content": "cheese " * 50}, {"role": "assistant", "content": "x"}]
        lines.append(json.dumps({"messages": messages}))
    file.write_text("\n".join(lines))
    config = DataConfig(SEQ_LEN, {"c": SourceConfig(str(file), "chats")}, {"c": 1.0})
    with pytest.raises(InputError, match=re.escape(f'{file}:2: field "messages" takes ')) as error:
        data.loader(config)
    assert "(1 more are too long)" in str(error.value)


def test_bad_arguments_are_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_rows: is 0"):
        data.loader(batch_rows=0)
    with pytest.raises(InputError, match="seed: is -1"):
        data.loader(seed=-1)
    with pytest.raises(InputError, match="batch_rows: 8 rows cannot be split over 3 hosts"):
        data.loader().host_batch(0, 0, 3)
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"text": "one"}))
    config = DataConfig(SEQ_LEN, {"c": SourceConfig(str(file), holdout=0.5)}, {"c": 1.0})
    with pytest.raises(InputError, match=r"data\.sources\.c\.holdout: leaves no document"):
        data.loader(config)


def test_chats_longer_than_a_row_are_dropped_where_the_config_says_so(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    answers = ["cheese"] * 20 + ["cheese " * 100] * 5
    with file.open("w") as f:
        for i, answer in enumerate(answers):
            messages = [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": answer}]
            f.write(json.dumps({"messages": messages}) + "\n")

    def loader(too_long: Literal["refuse", "drop"], seq_len: int = 64) -> Loader:
        source = SourceConfig(str(file), "chats", too_long=too_long)
        return Loader(DataConfig(seq_len, {"x": source}, {"x": 1.0}), tiny_tokenizer, TEMPLATE, 4, 0, tmp_path)

    with pytest.raises(InputError, match=rf'{re.escape(str(file))}:21: .*slots of 64 \(4 more are too long\).*"drop"'):
        loader("refuse")
    dropping = loader("drop")
    read = {int(name.rpartition(":")[2]) for step in range(30) for name in dropping.documents_of(step)}
    assert read == set(range(1, 21))
    counts = dropping.describe(0)["sources"]["x"]
    assert (counts["documents"], counts["held_out_documents"], counts["dropped_documents"]) == (20, 0, 5)
    assert dropping.fingerprint != loader("drop", seq_len=1024).fingerprint != loader("refuse", 1024).fingerprint
    with pytest.raises(InputError, match=r"data\.sources\.x\.too_long: drops every chat"):
        loader("drop", seq_len=4)
