"""Near duplicates by their words (MinHash), and semantic duplicates by their embeddings."""

from __future__ import annotations

import zlib

import numpy as np
from datasketch import MinHash, MinHashLSH

from msm_jax.synthesis.quality.parts import Finding, sentences, words

_PERMUTATIONS = 128
_SHINGLE = 3
_PIECE = 12
_COMPARED = 16
_LOWEST = 0.3
# The highest cosine of a piece of a text with the pieces of a neighbour, as it is on average in the planted set.
_NEAR = 0.55


class NearDuplicates:
    """The texts so far, by the MinHash of their runs of three words (Broder 1997, "On the resemblance of documents").

    A text takes about 2 KB of memory, whatever its length. The similarity is an estimate; its standard error is at most
    0.045, from 128 permutations.
    """

    def __init__(self, jaccard: float) -> None:
        """Starts without texts; from `jaccard` on, two texts are near duplicates."""
        self._jaccard = jaccard
        self._index = MinHashLSH(threshold=jaccard, num_perm=_PERMUTATIONS, weights=(0.2, 0.8))
        self._signatures: dict[str, MinHash] = {}

    def add(self, name: str, text: str) -> Finding | None:
        """Adds a text under a name, unless it is a near duplicate of one that was added before; then finds that one."""
        signature = MinHash(num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
        signature.update_batch(_shingles(text))
        similar = {other: signature.jaccard(self._signatures[other]) for other in self._index.query(signature)}
        best = max(similar, key=lambda other: similar[other], default=None)
        if best is not None and similar[best] >= self._jaccard:
            return Finding(0, min(len(text), 160), f"shares its wording with {best} (Jaccard {similar[best]:.2f})")
        self._index.insert(name, signature, check_duplication=False)
        self._signatures[name] = signature
        return None


def _shingles(text: str) -> list[bytes]:
    found = words(text)
    runs = zip(*(found[i:] for i in range(min(_SHINGLE, max(1, len(found))))), strict=False)
    return list({" ".join(run).encode() for run in runs})


def pieces(text: str, most: int) -> list[str]:
    """Returns the first `most` pieces of a text: sentences, with short ones joined until they have 12 words."""
    found: list[str] = []
    waiting: list[str] = []
    for sentence in sentences(text):
        waiting += sentence.split()
        if len(waiting) >= _PIECE:
            found.append(" ".join(waiting[: 4 * _PIECE]))
            waiting = []
        if len(found) == most:
            return found
    if waiting and (len(waiting) >= _PIECE // 2 or not found):
        found.append(" ".join(waiting[: 4 * _PIECE]))
    return found or [text]


class Meanings:
    """The texts so far by the embeddings of their pieces, each of length 1.

    How alike two texts are is the mean over their pieces of the highest cosine with a piece of the other text, of both
    directions the mean. It does not tell a paraphrase from another text of one genre about one subject. For documents
    the likeness is therefore another one, of the text that is nearest by this mean: how much nearer the pieces are to
    it than to the next neighbours on average, and three tenths of the lower quartile of their cosines with it, since
    all of a paraphrase has a counterpart. Only the texts with the nearest mean embeddings are compared by pieces. A
    text of 16 pieces takes 14 KB.
    """

    def __init__(self, least: float, dimension: int, contrast: bool = False) -> None:
        """Starts without texts; from `least` on, two texts mean the same; `contrast` chooses the likeness."""
        self._least = least
        self._contrast = contrast
        self._names: list[str] = []
        self._pieces: list[np.ndarray] = []
        self._means = np.zeros((1024, dimension), np.float32)

    def add(self, name: str, text: str, embeddings: np.ndarray) -> Finding | None:
        """Adds a text, unless it means the same as one that was added before; then finds that one.

        Args:
            name: of the text.
            text: whose beginning is shown.
            embeddings: of its pieces, [pieces, dimension].
        """
        mean = mean_of(embeddings)
        count = len(self._names)
        if count:
            nearest = np.argsort(self._means[:count] @ mean)[-_COMPARED:]
            best, alike = self._most_alike(embeddings, [self._pieces[i].astype(np.float32) for i in nearest])
            if alike >= self._least:
                note = f"means the same as {self._names[nearest[best]]} (likeness {alike:.2f})"
                return Finding(0, min(len(text), 160), note)
        if count == len(self._means):
            self._means = np.concatenate([self._means, np.zeros_like(self._means)])
        self._means[count] = mean
        self._names.append(name)
        self._pieces.append(embeddings.astype(np.float16))
        return None

    def _most_alike(self, embeddings: np.ndarray, others: list[np.ndarray]) -> tuple[int, float]:
        """Returns the index of the text that is most alike, and how alike it is."""
        cosines = [embeddings @ other.T for other in others]
        found = np.array([(each.max(1).mean() + each.max(0).mean()) / 2 for each in cosines])
        best = int(found.argmax())
        if not self._contrast:
            return best, float(found[best])
        # [others, pieces]; where neighbours are few, their pieces count as near as they are in a corpus at large.
        nearest = np.array([each.max(1) for each in cosines])
        missing = np.full((_COMPARED - len(others), len(embeddings)), _NEAR)
        beside = np.concatenate([np.delete(nearest, best, 0), missing])
        lowest = np.quantile(nearest[best], 0.25)
        return best, float((nearest[best] - beside.mean(0)).mean() + _LOWEST * lowest)


def mean_of(embeddings: np.ndarray) -> np.ndarray:
    """Returns the mean of embeddings, scaled to length 1."""
    mean = embeddings.mean(0)
    return mean / np.linalg.norm(mean)
