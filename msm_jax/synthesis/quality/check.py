"""Runs all gates over the rows of a corpus, in one pass."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from msm_jax.synthesis.quality import attribution, diversity, duplicates, gates, overlap, report
from msm_jax.synthesis.quality.config import Context, QualityConfig
from msm_jax.synthesis.quality.embedding import DIMENSION, Embedder
from msm_jax.synthesis.quality.parts import Finding, Row, row_of, words

_BATCH = 128
_EXAMPLES = 5
_AROUND = 70
# How many rows self-BLEU is computed over.
_SAMPLE = 200
_PIECE_TOKENS, _WINDOW_TOKENS = 64, 128


@dataclass(frozen=True)
class Quality:
    """What the gates say of a corpus.

    Attributes:
        verdicts: the reason codes for which each row is to be dropped, in the order of the rows; () for a row to keep.
        report: the content of quality.json (`report.build` describes it).
        stopped: a sentence for each reason why the corpus as a whole must not be used; () if it may be.
    """

    verdicts: tuple[tuple[str, ...], ...]
    report: dict[str, Any]
    stopped: tuple[str, ...]

    @property
    def kept(self) -> list[int]:
        """Returns the numbers of the rows to keep, from 0."""
        return [number for number, reasons in enumerate(self.verdicts) if not reasons]


@dataclass
class Tally:
    """What is counted while the rows pass.

    Attributes:
        counts: rows with each reason.
        examples: the first findings of each reason: {"id", "excerpt", "note"}.
        stances: kept rows by what they do with the value.
        words: words of the kept rows.
        rows: rows so far.
        sample: words of a sample of the kept rows.
        texts: texts of a sample of the kept rows, for the base model.
        dispersion: of the embeddings of the kept rows.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    stances: dict[str, int] = field(default_factory=dict)
    words: int = 0
    rows: int = 0
    sample: diversity.Sample[list[str]] = field(default_factory=lambda: diversity.Sample(_SAMPLE))
    texts: diversity.Sample[str] = field(default_factory=lambda: diversity.Sample(0))
    dispersion: diversity.Dispersion = field(default_factory=lambda: diversity.Dispersion(DIMENSION))


def check(rows: Iterable[Mapping[str, Any]], config: QualityConfig, context: Context) -> Quality:
    """Runs the gates over rows, which are read once and not kept.

    Of each row remain about 2 KB for near duplicates and up to 14 KB for its embeddings. Of several rows that are
    duplicates of each other, the first is kept. Only rows that no other gate drops are compared with each other.

    Args:
        rows: `{"text", "meta"?}`, `{"messages", "meta"?}` or `{"messages", "chosen", "rejected", "meta"?}` each, as
            context.kind says.
        config: settings of the gates.
        context: what the corpus is about.

    Raises:
        InputError: a setting is wrong, an item file cannot be read, or the embedding model is missing; before any row
            is read.
        WorkError: the base model failed.
    """
    checker = _Checker(config, context)
    verdicts: list[tuple[str, ...]] = []
    for batch in _batches(row_of(record, number) for number, record in enumerate(rows)):
        verdicts += checker.verdicts(batch)
    built, stopped = report.build(
        config, context, checker.tally, sum(not reasons for reasons in verdicts), checker.value
    )
    return Quality(tuple(verdicts), built, stopped)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch


class _Checker:
    """The gates with what they remember of earlier rows."""

    def __init__(self, config: QualityConfig, context: Context) -> None:
        self._config, self._context = config, context
        self._finders = gates.finders(config, context)
        wanted = {code for code in ("eval_words", "eval_meaning") if gates.runs(code, config, context)}
        items = overlap.read_items((*config.evals, *context.evals)) if wanted else []
        self._overlap = overlap.Overlap(items, config.eval_run)
        self._near = duplicates.NearDuplicates(config.near_jaccard)
        documents = context.kind == "documents"
        least = config.semantic_likeness if documents else config.question_cosine
        self._meanings = duplicates.Meanings(least, DIMENSION, contrast=documents)
        self._embedder = Embedder.load(config.embeddings) if config.embeddings else None
        terms = config.value_terms or attribution.terms_of(context.spec_text, context.assistant)
        self.value = attribution.Attribution(terms)
        self.tally = Tally()
        if context.reader:
            self.tally.texts = diversity.Sample(context.reader.max_documents)

    def _runs(self, code: str) -> bool:
        return gates.runs(code, self._config, self._context)

    def verdicts(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        """Returns the reasons for which each row is dropped."""
        reasons: list[list[str]] = [[] for _ in rows]
        for row, found in zip(rows, reasons, strict=True):
            for code, find in self._finders.items():
                self._note(row, code, find(row), found)
            if self._runs("eval_words"):
                self._note(row, "eval_words", self._overlap.by_words(row.text), found)
            if not found and self._runs("near_duplicate"):
                self._note(row, "near_duplicate", self._near.add(row.id, row.text), found)
        # A row that shares words with an eval may share meaning with it as well.
        passing = [each for each in zip(rows, reasons, strict=True) if not {*each[1]} - {"eval_words"}]
        if self._embedder and passing:
            self._by_meaning(self._embedder, passing)
        for row, found in zip(rows, reasons, strict=True):
            self.tally.rows += 1
            if not found:
                self._count(row)
        return [tuple(found) for found in reasons]

    @functools.cached_property
    def _questions(self) -> np.ndarray:
        """The embeddings of the items' questions, [questions, dimension]."""
        assert self._embedder is not None
        return self._embedder.embed(self._overlap.questions)

    def _by_meaning(self, embedder: Embedder, rows: Sequence[tuple[Row, list[str]]]) -> None:
        # A question is short enough to be embedded whole.
        most = self._config.embed_pieces
        pieces = [[row.question] if row.question else duplicates.pieces(row.text, most) for row, _ in rows]
        embedded = _embedded(embedder, pieces, _PIECE_TOKENS)
        if self._runs("eval_meaning") and self._overlap.questions:
            windows = [self._overlap.candidates(row.text) for row, _ in rows]
            near = _embedded(embedder, windows, _WINDOW_TOKENS)
            told = [[*one, *other] for one, other in zip(pieces, windows, strict=True)]
            # One product for all rows: many small ones would wait for the threads of each other.
            both = [each for pair in zip(embedded, near, strict=True) for each in pair]
            cosines = _split(np.concatenate(both) @ self._questions.T, told)
            for (row, found), texts, near_items in zip(rows, told, cosines, strict=True):
                finding = self._overlap.by_meaning(row.text, texts, near_items, self._config.eval_cosine)
                self._note(row, "eval_meaning", finding, found)
        for (row, found), embeddings in zip(rows, embedded, strict=True):
            if not found and self._runs("semantic_duplicate"):
                finding = self._meanings.add(row.id, row.question or row.text, embeddings)
                self._note(row, "semantic_duplicate", finding, found)
            if not found:
                self.tally.dispersion.add(duplicates.mean_of(embeddings)[None])

    def _note(self, row: Row, code: str, finding: Finding | None, found: list[str]) -> None:
        """Counts a finding, and adds its reason to the row's if the gate drops rows."""
        if finding is None:
            return
        tally = self.tally
        tally.counts[code] = tally.counts.get(code, 0) + 1
        shown = tally.examples.setdefault(code, [])
        if len(shown) < _EXAMPLES:
            shown.append({"id": row.id, "excerpt": _excerpt(row, finding), "note": finding.note})
        if self._config.actions.get(code, "drop") == "drop":
            found.append(code)

    def _count(self, row: Row) -> None:
        found = words(row.text)
        self.tally.words += len(found)
        self.tally.sample.add(found)
        self.tally.texts.add(row.text)
        stance = self.value.stance(row.text)
        self.tally.stances[stance] = self.tally.stances.get(stance, 0) + 1


def _embedded(embedder: Embedder, texts: Sequence[Sequence[str]], most_tokens: int) -> list[np.ndarray]:
    """Returns the embeddings of the texts of each row, [texts, dimension], from one call."""
    return _split(embedder.embed([text for each in texts for text in each], most_tokens), texts)


def _split(values: np.ndarray, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Returns the part of an array [texts of all rows, ...] that belongs to each row."""
    return np.split(values, np.cumsum([len(each) for each in texts], dtype=int)[:-1])


def _excerpt(row: Row, finding: Finding) -> str:
    text = row.parts[finding.part].text
    begin, end = max(0, finding.begin - _AROUND), min(len(text), min(finding.end, finding.begin + 200) + _AROUND)
    shown = " ".join(text[begin:end].split())
    # A lone surrogate cannot be written to a file.
    shown = shown.encode("utf-8", "replace").decode()
    return ("… " if begin else "") + shown + (" …" if end < len(text) else "")
