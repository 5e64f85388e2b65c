"""Packing: places documents in rows of equal length, from their lengths and a seed alone.

How well rows are filled depends only on how many chunks there are of each length, so the plan is made on that
histogram. It is a list of patterns, each a tuple of lengths that share a row, with the number of rows that have the
pattern. Chunks are dealt to the patterns afterwards. A million documents take about a second.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

# Best fit fills less than this share of the slots only where all lengths are near a simple fraction of a row.
_GOOD_FILL = 0.99

_Patterns = list[tuple[tuple[int, ...], int]]


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Consecutive parts of documents, none longer than a row: int64 arrays `[chunks]`."""

    document: np.ndarray
    start: np.ndarray
    length: np.ndarray


@dataclasses.dataclass(frozen=True)
class Plan:
    """The place of each chunk in `num_rows` rows: its row, and its offset in slots, int64 `[chunks]`."""

    row: np.ndarray
    offset: np.ndarray
    num_rows: int


def split_into_chunks(slots: np.ndarray, seq_len: int) -> Chunks:
    """Cuts documents of `slots` slots (int `[documents]`) into chunks of `seq_len` and a shorter last one."""
    slots = np.asarray(slots, np.int64)
    counts = -(-slots // seq_len)
    document = np.repeat(np.arange(len(slots)), counts)
    start = ranges(np.zeros_like(counts), counts) * seq_len
    return Chunks(document, start, np.minimum(slots[document] - start, seq_len))


def plan(lengths: np.ndarray, seq_len: int, seed: Sequence[int]) -> Plan:
    """Packs chunks of `lengths` slots (int `[chunks]`, 1 to seq_len) into rows.

    `seed` decides which chunks of a length share a row, and the order of the rows.
    """
    lengths = np.asarray(lengths, np.int64)
    counts = np.bincount(lengths, minlength=seq_len + 1).tolist()
    patterns = _best_fit(counts, seq_len)
    if lengths.sum() < _GOOD_FILL * seq_len * _num_rows(patterns):
        others = [_fullest_rows(counts, seq_len, frequent_first=flag) for flag in (True, False)]
        patterns = min(patterns, *others, key=_num_rows)

    rng = np.random.default_rng(list(seed))
    by_length = rng.permutation(len(lengths))
    by_length = by_length[np.argsort(lengths[by_length], kind="stable")]
    dealt = np.cumsum([0, *counts]).tolist()
    row = np.empty(len(lengths), np.int64)
    offset = np.empty(len(lengths), np.int64)
    num_rows = 0
    for pattern, rows in patterns:
        at = 0
        for length in pattern:
            chunks = by_length[dealt[length] : dealt[length] + rows]
            dealt[length] += rows
            row[chunks] = np.arange(num_rows, num_rows + rows)
            offset[chunks] = at
            at += length
        num_rows += rows
    return Plan(rng.permutation(num_rows)[row], offset, num_rows)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns `arange(start, start + count)` of all pairs, concatenated: int64 `[counts.sum()]`."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def _num_rows(patterns: _Patterns) -> int:
    return sum(rows for _, rows in patterns)


def _best_fit(counts: Sequence[int], seq_len: int) -> _Patterns:
    """Places the longest chunks first, each into the row with the least room that suffices."""
    rows_with: list[_Patterns] = [[] for _ in range(seq_len + 1)]
    has_rows = np.zeros(seq_len + 1, np.bool_)
    for length in range(seq_len, 0, -1):
        chunks = counts[length]
        if not chunks:
            continue
        # A row that gets a chunk is filled until it has less room than this length, so no candidate is added.
        for room in [*(length + np.flatnonzero(has_rows[length:])).tolist(), seq_len]:
            per_row = room // length
            candidates = rows_with[room] if has_rows[room] else [((), chunks)]
            rows_with[room], has_rows[room] = [], False
            for pattern, rows in candidates:
                full = min(rows, chunks // per_row)
                rest = chunks - full * per_row if full < rows else 0
                for n, in_row in ((full, per_row), (int(rest > 0), rest), (rows - full - (rest > 0), 0)):
                    if n and (pattern or in_row):
                        left = room - in_row * length
                        rows_with[left].append((pattern + (length,) * in_row, n))
                        has_rows[left] = True
                chunks -= full * per_row + rest
            if not chunks:
                break
    return [entry for entries in rows_with for entry in entries]


def _fullest_rows(counts: Sequence[int], seq_len: int, frequent_first: bool) -> _Patterns:
    """Fills one row after another: the longest chunk, then the lengths that fill its row best.

    Where several choices fill it equally, the most frequent or the longest lengths go first.
    """
    left = list(counts)
    lengths = [length for length in range(seq_len, 0, -1) if left[length]]
    patterns: _Patterns = []
    while lengths:
        longest = lengths[0]
        room = seq_len - longest
        # Bit s of `sums` says that the lengths so far can fill s slots; `before` holds `sums` from before each length.
        sums, within = 1, (1 << (room + 1)) - 1
        before: list[tuple[int, int]] = []
        order = sorted(lengths, key=lambda n: -left[n]) if frequent_first else lengths
        for length in order:
            if sums >> room:
                break
            before.append((length, sums))
            for _ in range(min(left[length] - (length == longest), room // length)):
                sums |= (sums << length) & within
        pattern = [longest]
        filled = sums.bit_length() - 1
        for length, sums in reversed(before):
            while not sums >> filled & 1:
                pattern.append(length)
                filled -= length
        used = collections.Counter(pattern)
        rows = min(left[length] // n for length, n in used.items())
        for length, n in used.items():
            left[length] -= rows * n
        patterns.append((tuple(pattern), rows))
        lengths = [length for length in lengths if left[length]]
    return patterns
