"""Which pages of the cache are in use, by how many requests, and which prefix of a prompt each of them holds.

A page that a prompt fills is known by the hash of the prompt up to its end, so that later prompts with the same
beginning use it too. It stays known when no request uses it any more, until its memory is needed.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np


class Pages:
    """Hands out pages 1 to `count` - 1; page 0 is nobody's (see `models.paged`)."""

    def __init__(self, count: int) -> None:
        """Begins with all pages free."""
        self.count = count
        self._free = list(range(count - 1, 0, -1))
        self._users = [0] * count
        self._known: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # known pages without a user, the longest unused first

    @property
    def available(self) -> int:
        """The number of pages that `take` could hand out."""
        return len(self._free) + len(self._idle)

    def take(self, number: int) -> list[int]:
        """Returns pages for one user; those that nobody has used for longest are forgotten first."""
        taken = []
        for _ in range(number):
            if self._free:
                page = self._free.pop()
            else:
                page, _ = self._idle.popitem(last=False)
                del self._known[self._keys.pop(page)]
            self._users[page] = 1
            taken.append(page)
        return taken

    def share(self, key: bytes) -> int | None:
        """Returns the page that holds a prefix, with one user more; None if no page does."""
        page = self._known.get(key)
        if page is not None:
            self._users[page] += 1
            self._idle.pop(page, None)
        return page

    def knows(self, key: bytes) -> bool:
        """Returns whether a page holds this prefix."""
        return key in self._known

    def register(self, page: int, key: bytes) -> None:
        """Notes that a page holds the end of a prefix, unless another page holds it already."""
        if key not in self._known:
            self._known[key] = page
            self._keys[page] = key

    def release(self, pages: Iterable[int]) -> None:
        """Gives pages back, each by one user."""
        for page in pages:
            self._users[page] -= 1
            if self._users[page] == 0:
                if page in self._keys:
                    self._idle[page] = None
                else:
                    self._free.append(page)


def prefix_keys(prompt: Sequence[int], page: int, begin: bytes) -> list[bytes]:
    """Returns a hash for each page of a prompt, of everything up to the page's end; the last page may be partly filled.

    `begin` tells apart what is equal in tokens only, such as prompts to different adapters.
    """
    keys, before = [], hashlib.blake2b(begin, digest_size=16).digest()
    ids = np.asarray(prompt, np.int32)
    for start in range(0, len(ids), page):
        before = hashlib.blake2b(before + ids[start : start + page].tobytes(), digest_size=16).digest()
        keys.append(before)
    return keys
