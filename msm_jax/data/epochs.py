"""How often a phase reads its sources, in words: the loader's own numbers, and where they are not what was meant.

The number of steps is a setting of a phase, so data of another size is read another number of times.
`DataConfig.epochs` says what is meant, and `departures` says where the data does not give it.
"""

import math
from collections.abc import Iterator, Mapping

from msm_jax.data.config import DataConfig
from msm_jax.data.loader import Loader

# Packing, and counts of tokens that are known only roughly, change the number of epochs by less than this share.
TOLERANCE = 0.1


def summary(loader: Loader, steps: int) -> str:
    """Returns what a phase of `steps` steps reads: "documents 1.000 epochs (20 rows each), chats 0.691 (31)"."""
    rows = loader.rows_per_epoch()
    first, *others = loader.epochs(steps).items()
    name, count = first
    told = [f"{name} {count:.3f} epochs ({rows[name]:,} rows each)"]
    return ", ".join([*told, *(f"{name} {count:.3f} ({rows[name]:,})" for name, count in others)])


def left_out(loader: Loader) -> Iterator[str]:
    """Yields a line on each source of which something is left out: "chats: 3 malformed and 12 too long left out"."""
    for name, counts in loader.left_out.items():
        yield f"{name}: {in_words(counts)} left out"


def in_words(counts: Mapping[str, int]) -> str:
    """Returns what is left out of a source in words: "3 malformed and 12 too long"."""
    return " and ".join(f"{count:,} {cause.replace('_', ' ')}" for cause, count in counts.items())


def departures(loader: Loader, config: DataConfig, steps: int) -> Iterator[str]:
    """Yields a line on each source that `steps` steps do not read as often as `config.epochs` says, within `TOLERANCE`.

    The line says which steps and weights would, where the mixture has one stage.
    """
    found = loader.epochs(steps)
    for name, meant in config.epochs.items():
        if abs(found[name] - meant) > TOLERANCE * meant:
            yield f"{name} is read {found[name]:.3f} times, where {meant:g} is meant; {_advice(loader, config, found)}"


def _advice(loader: Loader, config: DataConfig, found: dict[str, float]) -> str:
    if config.stages:
        return "change steps or stages, or data.epochs to what you mean"
    rows = {name: config.epochs.get(name, found[name]) * count for name, count in loader.rows_per_epoch().items()}
    total = sum(rows.values())
    weights = ", ".join(f"{name} {count / total:.4f}" for name, count in rows.items())
    mixed = f" and data.weights to {weights}" if len(rows) > 1 else ""
    return f"set steps to {math.ceil(total / loader.batch_rows)}{mixed}, or data.epochs to what you mean"
