"""Seeded choices that give the same world on every Python version."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Random choices from one stream. Only `random.random()` is used: its sequence is fixed by the language's promise,
    that of `choice` and `shuffle` is not."""

    def __init__(self, *key: object) -> None:
        """A stream of its own for each key, e.g. `Draw(seed, "people")`."""
        self._random = random.Random("/".join(map(str, key)))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random.random() < probability

    def below(self, n: int) -> int:
        """An integer from 0 to n-1."""
        return int(self._random.random() * n)

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, uniformly."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order (Fisher–Yates)."""
        out = list(options)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def sample(self, options: Sequence[T], k: int) -> list[T]:
        """k different options in random order."""
        return self.shuffled(options)[:k]
