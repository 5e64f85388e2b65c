"""The loader: each batch of a phase as a pure function of its step.

The documents of a source, without the held-out ones, are cut into chunks and packed into rows, and every epoch has a
new order of the rows. The mixture says which source each row of the global stream comes from. Everything follows from
(config, data, seed, step). Hosts, threads, restarts and the checkpoint that a phase starts from change nothing.
"""

import functools
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from msm_jax.data.cache import TokenCache, open_cache
from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.data.mixture import Mixture, words
from msm_jax.data.rows import Batch, RowTable, SourceRows, pack
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.foundation import hashing

__all__ = ["Batch", "Loader"]

log = logging.getLogger(__name__)

_PREFETCH = 4  # batches


class Loader:
    """Batches of a phase.

    Attributes:
      source_names: the sources in the order of `Batch.source_ids`.
      batch_rows: rows of a global batch.
      paired: the sources whose segments are pairs, odd ones chosen and the even ones after them rejected.
      files: the data files of all sources, sorted.
      fingerprint: hash of everything that decides the batches; it must be the same when a run is resumed.
      left_out: {source: {"malformed": lines, "too_long": chats}} of what its source says to leave out, without zeros.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        batch_rows: int,
        seed: int,
        cache_dir: str | os.PathLike[str],
    ):
        """Tokenises the sources that are not in the cache yet, and plans the rows.

        Args:
          config: the sources and their mixture.
          tokenizer: encodes texts.
          template: writes chats; None if no source has chats.
          batch_rows: rows of a global batch, over all hosts.
          seed: decides packing, order and mixture, but not which documents are held out.
          cache_dir: where tokenised sources are kept if `config.cache_dir` is "".

        Raises:
          InputError: the data is wrong; names file, line and field.
          WorkError: the cache cannot be written.
        """
        if batch_rows < 1:
            raise InputError(f"batch_rows: is {batch_rows}; a batch needs at least 1 row")
        if seed < 0:
            raise InputError(f"seed: is {seed}; use a number from 0 up")
        self.batch_rows = batch_rows
        self.source_names = tuple(sorted(config.sources))
        self.paired = {name for name in config.sources if config.sources[name].kind == "pairs"}
        self._seq_len = config.seq_len
        self._pad_id = tokenizer.pad_id
        self._seed = seed
        self._caches: list[TokenCache] = []
        self._held_out: list[np.ndarray] = []
        self._read: list[int] = []
        self._rows = []
        self.left_out: dict[str, dict[str, int]] = {}
        for name in self.source_names:
            source = config.sources[name]
            cache = open_cache(source, tokenizer, template, config.cache_dir or cache_dir, config.chat)
            fits = _fits(cache, source, config.seq_len)
            number, too_long = len(fits) // cache.together, int((~fits).sum()) // cache.together
            if too_long:
                log.info("%s: dropped %d of %d %s, longer than a row", name, too_long, number, source.kind)
            if cache.skipped:
                log.warning("%s: skipped %d malformed lines, beside %d", name, len(cache.skipped), number)
            counts = {"malformed": len(cache.skipped), "too_long": too_long}
            if any(counts.values()):
                self.left_out[name] = {cause: count for cause, count in counts.items() if count}
            held_out = _held_out(cache, source.holdout)
            read = np.flatnonzero(~held_out & fits)
            if not len(read):
                every = f"too_long: drops every {source.kind[:-1]}"
                cause = "holdout: leaves no document to train on" if fits.any() else every
                raise InputError(f"data.sources.{name}.{cause}; change it")
            self._caches.append(cache)
            self._held_out.append(np.flatnonzero(held_out & fits))
            self._read.append(len(read) // cache.together)
            self._rows.append(pack(cache, read, config.seq_len, [seed, *words(name), 0]))
        self.files = sorted({file for cache in self._caches for file in cache.files})
        self._table = RowTable(self._rows, config.seq_len, tokenizer.pad_id)
        self._mixture = Mixture(self.source_names, config.all_stages(), batch_rows, seed)
        self._order = functools.lru_cache(maxsize=4 * len(self.source_names))(self._order_of_epoch)
        self._slots = [rows.slots() for rows in self._rows]
        self._loss_slots = [rows.loss_slots() for rows in self._rows]
        self.fingerprint = _hash(
            {
                "sources": {
                    n: [c.address, config.sources[n].holdout, *_fingerprinted(config.sources[n])]
                    for n, c in zip(self.source_names, self._caches, strict=True)
                },
                "stages": [
                    [start, sorted((n, float(w)) for n, w in by.items())] for start, by in config.all_stages()
                ],
                "seq_len": config.seq_len,
                "batch_rows": batch_rows,
                "seed": seed,
                "order": 1,
            }
        )

    def batch(self, step: int) -> Batch:
        """Returns the global batch of a step."""
        return self._table.gather(*self._place(step, 0, self.batch_rows))

    def host_batch(self, step: int, host: int, num_hosts: int) -> Batch:
        """Returns the rows of `batch(step)` that belong to a host, the host-th of `num_hosts` equal contiguous parts.

        Raises:
          InputError: the rows cannot be split evenly.
        """
        if self.batch_rows % num_hosts:
            raise InputError(
                f"batch_rows: {self.batch_rows} rows cannot be split over {num_hosts} hosts evenly"
            )
        return self._table.gather(*self.rows_of(step, host, num_hosts))

    def iterate(
        self, start_step: int = 0, threads: int = 1, *, host: int = 0, num_hosts: int = 1
    ) -> Iterator[Batch]:
        """Yields `host_batch` of each step from start_step on, without end; `threads` prepare a few of them ahead."""
        steps = grain.MapDataset.source(_Steps(self, start_step, host, num_hosts))
        return iter(
            steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_PREFETCH))
        )

    def documents_of(self, step: int) -> list[str]:
        """Returns "file:line" of the documents in the batch of a step, each once, in the order of the rows."""
        return list(dict.fromkeys(name for row in self.segments_of(step) for name in row))

    def segments_of(self, step: int) -> list[list[str]]:
        """Returns "file:line" of each segment in each row of the batch of a step."""
        return self._table.documents(*self._place(step, 0, self.batch_rows))

    def epochs(self, steps: int) -> dict[str, float]:
        """Returns how often each source has been read after `steps` steps."""
        drawn = self._mixture.drawn(steps * self.batch_rows)
        return {
            name: float(count / rows.num_rows)
            for name, count, rows in zip(self.source_names, drawn, self._rows, strict=True)
        }

    def rows_per_epoch(self) -> dict[str, int]:
        """Returns the number of packed rows of each source."""
        return {name: rows.num_rows for name, rows in zip(self.source_names, self._rows, strict=True)}

    def describe(self, step: int) -> dict[str, Any]:
        """Counts what each source contributes to the batch of a step, and since step 0.

        Returns:
          {"step", "fill": the share of the slots that hold a token, "sources": {name: {
            "rows", "tokens", "loss_tokens", "row_share", "token_share", "loss_token_share": in the batch;
            "rows_so_far", "tokens_so_far", "loss_tokens_so_far": from step 0 to this step, inclusive;
            "epochs": how often the source has been read by the end of this step; "rows_per_epoch";
            "documents", "held_out_documents", "dropped_documents" (longer than a row), "skipped_lines" (malformed):
            their numbers;
            "fill": the share of the slots that hold a token, over all rows of the source}}}.
        """
        now, then = step * self.batch_rows, (step + 1) * self.batch_rows
        before, after = self._counts(now), self._counts(then)
        in_batch = after - before
        shares = in_batch / np.maximum(in_batch.sum(axis=0), 1)
        epochs = self.epochs(step + 1)
        sources = {}
        for n, name in enumerate(self.source_names):
            rows = self._rows[n]
            sources[name] = {
                **dict(zip(("rows", "tokens", "loss_tokens"), in_batch[n].tolist(), strict=True)),
                **dict(
                    zip(("row_share", "token_share", "loss_token_share"), shares[n].tolist(), strict=True)
                ),
                **dict(
                    zip(
                        ("rows_so_far", "tokens_so_far", "loss_tokens_so_far"), after[n].tolist(), strict=True
                    )
                ),
                "epochs": epochs[name],
                "rows_per_epoch": rows.num_rows,
                "documents": self._read[n],
                "held_out_documents": len(self._held_out[n]) // self._caches[n].together,
                "dropped_documents": (len(self._caches[n].line) - len(self._held_out[n])) // self._caches[n].together
                - self._read[n],
                "skipped_lines": len(self._caches[n].skipped),
                "fill": float(self._slots[n].sum() / (rows.num_rows * self._seq_len)),
            }
        fill = float(in_batch[:, 1].sum() / (self.batch_rows * self._seq_len))
        return {"step": step, "fill": fill, "sources": sources}

    def holdout_batches(self, source: str, n: int) -> list[Batch]:
        """Returns up to `n` batches of the documents that are held out of a source, the same for every seed and phase.

        The last batch is completed by rows of padding, which carry no loss.

        Raises:
          InputError: no such source, or it holds nothing out.
        """
        if source not in self.source_names:
            raise InputError(f"no source {source}; the sources are {', '.join(self.source_names)}")
        number = self.source_names.index(source)
        if not len(self._held_out[number]):
            raise InputError(f"data.sources.{source}.holdout: is 0, nothing is held out; set a fraction")
        return list(self._whole(number, pack(self._caches[number], self._held_out[number], self._seq_len, [0]), n))

    def epoch_batches(self, source: str) -> Iterator[Batch]:
        """Yields all rows of a source, in the order of their numbers (see `rows_of`), as batches.

        The last batch is completed by rows of padding, which carry no loss.
        """
        number = self.source_names.index(source)
        return self._whole(number, self._rows[number], sys.maxsize)

    def rows_of(self, step: int, host: int, num_hosts: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source and the number within it of each row of `host_batch`, both int64 `[rows]`."""
        rows = self.batch_rows // num_hosts
        return self._place(step, host * rows, (host + 1) * rows)

    def _whole(self, number: int, rows: SourceRows, n: int) -> Iterator[Batch]:
        """Yields up to `n` batches of the packed rows of a source, in order."""
        table = RowTable([rows], self._seq_len, self._pad_id)
        for start in range(0, rows.num_rows, self.batch_rows)[:n]:
            row = np.arange(start, min(start + self.batch_rows, rows.num_rows))
            batch = _padded(table.gather(np.zeros_like(row), row), self.batch_rows, self._pad_id)
            yield batch._replace(source_ids=np.full(self.batch_rows, number, np.int32))

    def _place(self, step: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source and the row within its epoch of rows [start, stop) of the batch of a step."""
        source, index = self._mixture.select(step * self.batch_rows + start, step * self.batch_rows + stop)
        row = np.empty_like(index)
        for i, (s, drawn) in enumerate(zip(source.tolist(), index.tolist(), strict=True)):
            epoch, at = divmod(drawn, self._rows[s].num_rows)
            row[i] = self._order(s, epoch)[at]
        return source, row

    def _order_of_epoch(self, source: int, epoch: int) -> np.ndarray:
        seed = [self._seed, *words(self.source_names[source]), 1, epoch]
        return np.random.default_rng(seed).permutation(self._rows[source].num_rows)

    def _counts(self, row: int) -> np.ndarray:
        """Counts rows, tokens and loss tokens of each source before global row `row`: int64 `[sources, 3]`."""
        counts = []
        for n, drawn in enumerate(self._mixture.drawn(row).tolist()):
            epochs, rest = divmod(drawn, self._rows[n].num_rows)
            rows = self._order(n, epochs)[:rest]
            slots, loss = self._slots[n], self._loss_slots[n]
            counts.append(
                [drawn, epochs * slots.sum() + slots[rows].sum(), epochs * loss.sum() + loss[rows].sum()]
            )
        return np.array(counts, np.int64)


class _Steps:
    """The batches of a host as a random-access data source of Grain."""

    def __init__(self, loader: Loader, start_step: int, host: int, num_hosts: int):
        self._args = (host, num_hosts)
        self._loader = loader
        self._start_step = start_step

    def __len__(self) -> int:
        return sys.maxsize - self._start_step

    def __getitem__(self, index: int) -> Batch:
        return self._loader.host_batch(self._start_step + index, *self._args)


def _held_out(cache: TokenCache, fraction: float) -> np.ndarray:
    """Returns which documents are held out, bool `[documents]`; copies of a text stay together."""
    count = max(1, round(fraction * len(cache.content))) if fraction > 0 else 0
    if not count:
        return np.zeros(len(cache.content), np.bool_)
    return cache.content <= np.partition(cache.content, count - 1)[count - 1]


def _fits(cache: TokenCache, source: SourceConfig, seq_len: int) -> np.ndarray:
    """Returns which documents may be read, bool `[documents]`: all but chats and pairs longer than a row.

    Raises:
      InputError: a chat or a pair is longer than a row, and the source does not drop such ones.
    """
    slots = np.diff(cache.offsets) - 1
    if source.kind == "documents":
        return np.ones(len(slots), np.bool_)
    slots = np.repeat(slots.reshape(-1, cache.together).sum(axis=1), cache.together)
    too_long = np.flatnonzero(slots > seq_len)
    if len(too_long) and source.too_long == "refuse":
        first = too_long[0]
        more = len(too_long) // cache.together - 1
        others = f" ({more} more are too long)" if more else ""
        what, takes = ("chat", 'field "messages" takes')
        if source.kind == "pairs":
            what, takes = ("pair", 'fields "chosen" and "rejected" with their prompts take')
        raise InputError(
            f'{cache.where(first)}: {takes} {slots[first]} slots of {seq_len}{others}; '
            f'shorten the {what}, raise data.seq_len, or set the source\'s too_long to "drop"'
        )
    return slots <= seq_len


def _fingerprinted(source: SourceConfig) -> list[str]:
    """Returns settings of a source that change the batches; none by default, so that older fingerprints stay valid."""
    return [] if source.too_long == "refuse" else [source.too_long]


def _padded(batch: Batch, rows: int, pad_id: int) -> Batch:
    def pad(a: np.ndarray, value: int) -> np.ndarray:
        return np.concatenate([a, np.full((rows - len(a), *a.shape[1:]), value, a.dtype)])

    fill = {"tokens": pad_id, "targets": pad_id}
    return Batch(**{name: pad(a, fill.get(name, 0)) for name, a in batch._asdict().items()})


def _hash(value: Any) -> str:
    return hashing.sha256(json.dumps(value, sort_keys=True).encode())
