"""Seeded choices that give the same world on every Python version."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Random choices from one stream.

    It uses only `random.random()`, because Python guarantees its sequence for a seed, but not that of `choice` and
    `shuffle`.
    """

    def __init__(self, *key: object) -> None:
        """Starts the stream of a key, such as `Draw(seed, "people")`; each key has its own."""
        self._random = random.Random("/".join(map(str, key)))

    def chance(self, probability: float) -> bool:
        """Returns True with a probability."""
        return self._random.random() < probability

    def below(self, n: int) -> int:
        """Returns an integer from 0 to n-1, uniformly."""
        return int(self._random.random() * n)

    def choice(self, options: Sequence[T]) -> T:
        """Returns one of the options, uniformly."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Returns the options in random order (Fisher–Yates)."""
        out = list(options)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def sample(self, options: Sequence[T], k: int) -> list[T]:
        """Returns k different options in random order."""
        return self.shuffled(options)[:k]
