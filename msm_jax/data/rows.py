"""Packed rows of several sources, from which a few array operations gather batches."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from msm_jax.data import packing
from msm_jax.data.cache import TokenCache


class Batch(NamedTuple):
    """Packed rows.

    Attributes:
      tokens: int32 `[rows, seq_len]`, the input of each slot.
      targets: int32 `[rows, seq_len]`, the token after it.
      segment_ids: int32 `[rows, seq_len]`, counted from 1 in each row; 0 in padding.
      positions: int32 `[rows, seq_len]`, counted from 0 in each segment.
      loss_mask: bool `[rows, seq_len]`, whether the target carries loss.
      source_ids: int32 `[rows]`, indices into `Loader.source_names`.
    """

    tokens: np.ndarray
    targets: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    loss_mask: np.ndarray
    source_ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """The packed rows of one source.

    Attributes:
      cache: the tokens.
      row_start: int64 `[rows + 1]`, the first segment of each row.
      document: int64 `[segments]`, the document in the cache.
      first: int64 `[segments]`, index of the segment's first input token in `cache.tokens`.
      length, offset: int64 `[segments]`, slots of the segment and slots before it in its row.
    """

    cache: TokenCache
    row_start: np.ndarray
    document: np.ndarray
    first: np.ndarray
    length: np.ndarray
    offset: np.ndarray

    @property
    def num_rows(self) -> int:
        """Returns the number of rows in one epoch."""
        return len(self.row_start) - 1

    def slots(self) -> np.ndarray:
        """Returns how many slots of each row hold a token: int64 `[rows]`."""
        return np.diff(np.concatenate([[0], np.cumsum(self.length)])[self.row_start])

    def loss_slots(self) -> np.ndarray:
        """Returns how many slots of each row have a target with loss: int64 `[rows]`."""
        if self.cache.mask is None:
            return self.slots()
        before = np.concatenate([[0], np.cumsum(self.cache.mask)])
        per_segment = before[self.first + self.length + 1] - before[self.first + 1]
        return np.diff(np.concatenate([[0], np.cumsum(per_segment)])[self.row_start])


def pack(cache: TokenCache, documents: np.ndarray, seq_len: int, seed: Sequence[int]) -> SourceRows:
    """Packs the given documents of a cache (int `[n]`) into rows of `seq_len` slots.

    Documents that belong together, the answers of a pair, stay whole and follow each other in one row.
    """
    if cache.together > 1:
        return _pack_together(cache, documents, seq_len, seed)
    chunks = packing.split_into_chunks(np.diff(cache.offsets)[documents] - 1, seq_len)
    plan = packing.plan(chunks.length, seq_len, seed)
    order = np.lexsort((plan.offset, plan.row))
    document = documents[chunks.document[order]]
    return SourceRows(
        cache=cache,
        row_start=np.searchsorted(plan.row[order], np.arange(plan.num_rows + 1)),
        document=document,
        first=cache.offsets[document] + chunks.start[order],
        length=chunks.length[order],
        offset=plan.offset[order],
    )


def _pack_together(cache: TokenCache, documents: np.ndarray, seq_len: int, seed: Sequence[int]) -> SourceRows:
    length = np.diff(cache.offsets)[documents] - 1
    groups = length.reshape(-1, cache.together)
    plan = packing.plan(groups.sum(axis=1), seq_len, seed)
    order = np.lexsort((plan.offset, plan.row))
    within = np.cumsum(groups, axis=1) - groups
    document = documents.reshape(groups.shape)[order].reshape(-1)
    return SourceRows(
        cache=cache,
        row_start=cache.together * np.searchsorted(plan.row[order], np.arange(plan.num_rows + 1)),
        document=document,
        first=cache.offsets[document],
        length=groups[order].reshape(-1),
        offset=(plan.offset[:, None] + within)[order].reshape(-1),
    )


class RowTable:
    """The rows of several sources in one table, from which `gather` makes batches."""

    def __init__(self, sources: Sequence[SourceRows], seq_len: int, pad_id: int):
        """Joins the sources' segments into one table; `pad_id` fills the slots that no document takes."""
        self._sources = sources
        self._seq_len = seq_len
        self._pad_id = pad_id
        self._first_row = np.cumsum([0] + [s.num_rows for s in sources])
        segments = np.cumsum([0] + [len(s.length) for s in sources])
        starts = [s.row_start[:-1] + base for s, base in zip(sources, segments, strict=False)]
        self._row_start = np.concatenate([*starts, segments[-1:]])
        self._document = np.concatenate([s.document for s in sources])
        self._first = np.concatenate([s.first for s in sources])
        self._length = np.concatenate([s.length for s in sources])
        self._offset = np.concatenate([s.offset for s in sources])

    def gather(self, source: np.ndarray, row: np.ndarray) -> Batch:
        """Returns the batch of the given rows: their sources and their numbers within them, both int `[rows]`."""
        shape = (len(source), self._seq_len)
        # Source by source, so that the slots of one source are a slice.
        order = np.argsort(source, kind="stable")
        counts, segment = self._segments(source[order], row[order])
        length = self._length[segment]
        number = packing.ranges(np.ones_like(counts), counts)
        place = np.repeat(order, counts) * self._seq_len + self._offset[segment]
        position = packing.ranges(np.zeros_like(length), length)
        slot = np.repeat(place, length) + position
        index = np.repeat(self._first[segment], length) + position

        tokens = np.full(shape, self._pad_id, np.int32)
        targets = np.full(shape, self._pad_id, np.int32)
        segment_ids = np.zeros(shape, np.int32)
        positions = np.zeros(shape, np.int32)
        loss_mask = np.zeros(shape, np.bool_)
        segment_ids.reshape(-1)[slot] = np.repeat(number, length)
        positions.reshape(-1)[slot] = position
        slots_before = np.concatenate([[0], np.cumsum(length)])[np.concatenate([[0], np.cumsum(counts)])]
        bounds = slots_before[np.searchsorted(source[order], np.arange(len(self._sources) + 1))]
        for n, s in enumerate(self._sources):
            if bounds[n] < bounds[n + 1]:
                to, at = slot[bounds[n] : bounds[n + 1]], index[bounds[n] : bounds[n + 1]]
                tokens.reshape(-1)[to] = s.cache.tokens[at]
                at = at + 1
                targets.reshape(-1)[to] = s.cache.tokens[at]
                loss_mask.reshape(-1)[to] = True if s.cache.mask is None else s.cache.mask[at]
        return Batch(tokens, targets, segment_ids, positions, loss_mask, source.astype(np.int32))

    def documents(self, source: np.ndarray, row: np.ndarray) -> list[list[str]]:
        """Returns "file:line" of each segment of each of the given rows."""
        counts, segment = self._segments(source, row)
        names = [
            self._sources[n].cache.where(document)
            for n, document in zip(np.repeat(source, counts), self._document[segment], strict=True)
        ]
        ends = np.cumsum(counts)
        return [names[end - count : end] for count, end in zip(counts, ends, strict=True)]

    def _segments(self, source: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many segments each row has, and the numbers of all these segments."""
        row = self._first_row[source] + row
        first = self._row_start[row]
        counts = self._row_start[row + 1] - first
        return counts, packing.ranges(first, counts)
