"""Few shapes for many requests: each shape that a batch takes is a program to compile."""

from collections.abc import Iterator


def bucket(n: int, smallest: int = 32) -> int:
    """The smallest of 32, 64, 128, 192, 256, 384, 512, 768, … that is at least n (with `smallest` 32)."""
    size = smallest
    while size < n:
        size *= 2
    three_quarters = size * 3 // 4
    return three_quarters if three_quarters >= max(n, 129) else size


def rows(n: int, most: int) -> int:
    """The power of two that is at least n, but not more than `most`; n <= most."""
    return min(most, 1 << (n - 1).bit_length())


def growth(length: int, new_tokens: int) -> Iterator[int]:
    """Sizes that a cache takes in turn, from `length` slots of prompt to room for `new_tokens` more.

    By 32 slots, by a quarter where that is more: a step's time is then mostly spent on slots that are filled, and a
    long reply still needs few programs.
    """
    slots = length
    while slots < length + new_tokens - 1:
        slots += max(32, slots // 4 // 32 * 32)
        yield slots
