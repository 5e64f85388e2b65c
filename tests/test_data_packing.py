"""Packing: every slot of every document once, rows never overfull, fill, speed, determinism."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_jax.data import packing

SEQ_LEN = st.integers(2, 40)


@given(st.lists(st.integers(1, 120), max_size=60), SEQ_LEN)
def test_chunks_cut_documents_without_gaps(slots: list[int], seq_len: int) -> None:
    expected = []
    for document, n in enumerate(slots):
        expected += [(document, start, min(seq_len, n - start)) for start in range(0, n, seq_len)]
    chunks = packing.split_into_chunks(np.array(slots, np.int64), seq_len)
    assert list(zip(chunks.document, chunks.start, chunks.length, strict=True)) == expected


@given(st.data(), SEQ_LEN, st.integers(0, 5))
def test_every_chunk_has_a_place_of_its_own(data: st.DataObject, seq_len: int, seed: int) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, seq_len), max_size=80)), np.int64)
    plan = packing.plan(lengths, seq_len, [seed])
    taken = np.zeros((plan.num_rows, seq_len), np.int64)
    for row, offset, length in zip(plan.row, plan.offset, lengths, strict=True):
        assert offset + length <= seq_len
        taken[row, offset : offset + length] += 1
    assert taken.max(initial=0) <= 1
    assert taken.sum() == lengths.sum()
    # No row is empty, and what is taken of a row is its begin.
    assert (np.diff(taken, axis=1) <= 0).all()
    assert (taken[:, 0] == 1).all()
    # No worse than first fit in any order: two rows that would fit in one do not occur twice over.
    assert plan.num_rows <= 2 * -(-lengths.sum() // seq_len)


@pytest.mark.parametrize(
    ("mean", "spread", "seq_len"), [(50, 23, 128), (31, 4, 128), (31, 8, 128), (24, 5, 128), (600, 400, 2048)]
)
def test_fill(mean: int, spread: int, seq_len: int) -> None:
    rng = np.random.default_rng(mean)
    lengths = np.clip(rng.normal(mean, spread, 3000).round(), 10, seq_len).astype(np.int64)
    plan = packing.plan(lengths, seq_len, [0])
    assert lengths.sum() / (plan.num_rows * seq_len) >= 0.98


def test_a_million_documents() -> None:
    lengths = np.random.default_rng(0).integers(10, 91, 1_000_000)
    start = time.process_time()
    plan = packing.plan(lengths, 128, [0])
    assert time.process_time() - start < 10
    assert lengths.sum() / (plan.num_rows * 128) >= 0.99


def test_plan_follows_from_lengths_and_seed() -> None:
    lengths = np.random.default_rng(0).integers(10, 91, 500)
    a, b, c = (packing.plan(lengths, 128, seed) for seed in ([1, 2], [1, 2], [1, 3]))
    assert (a.row == b.row).all()
    assert (a.offset == b.offset).all()
    assert (a.row != c.row).any()


def test_rows_are_not_sorted_by_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 91, 5000)
    plan = packing.plan(lengths, 128, [0])
    longest = np.zeros(plan.num_rows)
    np.maximum.at(longest, plan.row, lengths)
    half = plan.num_rows // 2
    assert abs(longest[:half].mean() - longest[half:].mean()) < 2


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 5)), max_size=9))
def test_ranges(pairs: list[tuple[int, int]]) -> None:
    starts, counts = (np.array(x, np.int64) for x in (zip(*pairs, strict=True) if pairs else ([], [])))
    assert packing.ranges(starts, counts).tolist() == [
        i for start, n in pairs for i in range(start, start + n)
    ]
