"""Draws from tables of phrases, reproducibly.

A template has choices in square brackets, `[a|b]`, and slots in braces. The choices are drawn before the slots are
filled, so that brackets and braces in what fills them stay as they are.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


class Draw:
    """A stream of choices that follows from the texts it is made with."""

    def __init__(self, *seeds: object) -> None:
        digest = hashlib.sha256("\0".join(map(str, seeds)).encode("utf-8", "surrogatepass")).digest()
        self._random = random.Random(digest)

    def chance(self, share: float) -> bool:
        """Returns True with a probability of `share`."""
        return self._random.random() < share

    def below(self, bound: int) -> int:
        """Returns an integer of 0 … bound - 1."""
        return self._random.randrange(bound)

    def choice(self, options: Sequence[T]) -> T:
        """Returns one of the options."""
        return options[self._random.randrange(len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Returns that many different options in random order, or all of them where there are fewer."""
        return self._random.sample(list(options), min(count, len(options)))

    def fill(self, template: str, slots: Mapping[str, str]) -> str:
        """Draws the choices of a template, inner ones first, and fills its slots."""
        while "[" in template:
            template = _CHOICE.sub(lambda found: self.choice(found[1].split("|")), template, count=1)
        return _SLOT.sub(lambda found: slots[found[1]], template)
