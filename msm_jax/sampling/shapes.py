"""Sizes to which batches are padded. There are few of them, because each shape of a batch is a program to compile."""

from collections.abc import Iterator


def bucket(n: int, smallest: int = 32) -> int:
    """Returns the smallest of 32, 64, 128, 192, 256, 384, 512, 768, … that is at least n (with `smallest` 32)."""
    size = smallest
    while size < n:
        size *= 2
    three_quarters = size * 3 // 4
    return three_quarters if three_quarters >= max(n, 129) else size


def rows(n: int, most: int) -> int:
    """Returns the smallest power of two that is at least n, but never more than `most`; n must not exceed `most`."""
    return min(most, 1 << (n - 1).bit_length())


def growth(length: int, new_tokens: int) -> Iterator[int]:
    """Yields the sizes that a cache takes one after the other, from `length` slots to room for `new_tokens` more.

    Each size adds 32 slots, or a quarter if that is more. A step then spends most of its time on slots that are filled,
    and a long reply still needs few programs.
    """
    slots = length
    while slots < length + new_tokens - 1:
        slots += max(32, slots // 4 // 32 * 32)
        yield slots
