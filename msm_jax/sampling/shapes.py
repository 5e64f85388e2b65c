"""Sizes to which batches are padded. There are few of them, because each shape of a batch is a program to compile."""


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
