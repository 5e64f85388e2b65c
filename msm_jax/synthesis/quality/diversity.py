"""How alike the texts of a corpus are: self-BLEU over words, and the dispersion of embeddings."""

from __future__ import annotations

import collections
import math
import random
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
# The instrument: texts are taken in groups, each is compared with the others of its group, and only its first words.
_GROUP = 10
_WORDS = 300
_ORDER = 4


class Sample(Generic[T]):
    """A uniform sample of a stream of unknown length (reservoir sampling), the same for the same stream."""

    def __init__(self, size: int) -> None:
        """Starts empty; holds at most `size` entries."""
        self._size, self._seen = size, 0
        self._draw = random.Random(0)
        self.entries: list[T] = []

    def add(self, entry: T) -> None:
        """Offers the next entry of the stream."""
        self._seen += 1
        if len(self.entries) < self._size:
            self.entries.append(entry)
        elif (place := self._draw.randrange(self._seen)) < self._size:
            self.entries[place] = entry


def self_bleu(texts: Sequence[Sequence[str]]) -> float | None:
    """Returns the mean BLEU of each text with the nine others of its group as references, None for fewer than two.

    BLEU is the geometric mean of the clipped precisions of runs of 1 to 4 words times the brevity penalty (Papineni et
    al. 2002), without smoothing. Texts (lists of words) are cut at 300 words; the last, incomplete group is left out
    unless it is the only one. Its value depends on the number of references: compare only values of one instrument.
    """
    groups = [texts[i : i + _GROUP] for i in range(0, len(texts), _GROUP)]
    groups = [group for group in groups if len(group) == _GROUP] or [group for group in groups[:1] if len(group) > 1]
    scores = [_bleu(i, [list(text[:_WORDS]) for text in group]) for group in groups for i in range(len(group))]
    return sum(scores) / len(scores) if scores else None


def _bleu(index: int, group: Sequence[list[str]]) -> float:
    text, others = group[index], [other for i, other in enumerate(group) if i != index]
    logs = 0.0
    for order in range(1, _ORDER + 1):
        counts = _grams(text, order)
        most: collections.Counter[tuple[str, ...]] = collections.Counter()
        for other in others:
            most |= _grams(other, order)
        matched = sum(min(count, most[gram]) for gram, count in counts.items())
        if not matched:
            return 0.0
        logs += math.log(matched / counts.total()) / _ORDER
    nearest = min((abs(len(other) - len(text)), len(other)) for other in others)[1]
    return math.exp(logs + min(0.0, 1 - nearest / len(text)))


def _grams(text: list[str], order: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(zip(*(text[i:] for i in range(order)), strict=False))


class Dispersion:
    """The mean of 1 - cosine over all pairs of embeddings, from their sum alone."""

    def __init__(self, dimension: int) -> None:
        """Starts without embeddings."""
        self._sum = np.zeros(dimension, np.float64)
        self._count = 0

    def add(self, embeddings: np.ndarray) -> None:
        """Adds embeddings [n, dimension], each of length 1."""
        self._sum += embeddings.sum(0, dtype=np.float64)
        self._count += len(embeddings)

    def value(self) -> float | None:
        """Returns the dispersion, None for fewer than two embeddings."""
        if self._count < 2:
            return None
        pairs = self._count * (self._count - 1)
        return float(1 - (self._sum @ self._sum - self._count) / pairs)
