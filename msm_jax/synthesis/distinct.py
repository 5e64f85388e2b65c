"""Tells which questions are like an earlier one: by their words, and by meaning where an embedding model is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_WORD = re.compile(r"\w+")


def recogniser(embeddings: str, cosine: float) -> Callable[[Sequence[str]], list[bool]]:
    """Returns a function that says for each text whether it is like one before it, in this call or an earlier one.

    Args:
        embeddings: the directory of the embedding model; "" to compare words alone: two texts are then alike if they
            consist of the same words, in whatever order.
        cosine: two texts mean the same from this cosine of their embeddings on.

    Raises:
        InputError: the embedding model is missing.
    """
    by_meaning = _by_meaning(embeddings, cosine) if embeddings else None
    known: set[str] = set()

    def alike(texts: Sequence[str]) -> list[bool]:
        found = []
        for text in texts:
            words = " ".join(sorted(_WORD.findall(text.lower())))
            found.append(words in known)
            known.add(words)
        if by_meaning is not None:
            new = [number for number, is_alike in enumerate(found) if not is_alike]
            for number, is_alike in zip(new, by_meaning([texts[number] for number in new]), strict=True):
                found[number] = is_alike
        return found

    return alike


def _by_meaning(embeddings: str, cosine: float) -> Callable[[Sequence[str]], list[bool]]:
    from msm_jax.synthesis.quality import duplicates, embedding

    model = embedding.Embedder.load(embeddings)
    meanings = duplicates.Meanings(cosine, embedding.DIMENSION)

    def alike(texts: Sequence[str]) -> list[bool]:
        vectors = model.embed(texts)
        return [meanings.add(text, text, vector[None]) is not None for text, vector in zip(texts, vectors, strict=True)]

    return alike
