"""Few shapes for many requests: each shape that a batch takes is a program to compile."""

from __future__ import annotations


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
