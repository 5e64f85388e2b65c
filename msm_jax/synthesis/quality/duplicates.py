"""Near duplicates by their words (MinHash), and semantic duplicates by their embeddings."""

from __future__ import annotations

import zlib

import numpy as np
from datasketch import MinHash, MinHashLSH

from msm_jax.synthesis.quality.parts import Finding, words

_PERMUTATIONS = 128
_SHINGLE = 3


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


class Meanings:
    """The embeddings of the texts so far, of length 1: 1.5 KB each."""

    def __init__(self, cosine: float, dimension: int) -> None:
        """Starts without texts; from `cosine` on, two texts mean the same."""
        self._cosine = cosine
        self._names: list[str] = []
        self._kept = np.zeros((1024, dimension), np.float32)

    def add(self, name: str, text: str, embedding: np.ndarray) -> Finding | None:
        """Adds a text, unless it means the same as one that was added before; then finds that one."""
        count = len(self._names)
        if count:
            cosines = self._kept[:count] @ embedding
            best = int(cosines.argmax())
            if cosines[best] >= self._cosine:
                note = f"means the same as {self._names[best]} (cosine {cosines[best]:.2f})"
                return Finding(0, min(len(text), 160), note)
        if count == len(self._kept):
            self._kept = np.concatenate([self._kept, np.zeros_like(self._kept)])
        self._kept[count] = embedding
        self._names.append(name)
        return None
