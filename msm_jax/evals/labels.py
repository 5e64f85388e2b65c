"""What the items of an eval have in common: the cluster that they belong to, and the options that they compare.

A report does not treat items that share one of these as independent (`analysis.dependence`). They are read from the
item file, not from the results of an eval, so that they can be added to a file whose items have been scored.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.data import sources
from msm_jax.errors import InputError
from msm_jax.evals import public_sets

Labels = Mapping[str, tuple[str, ...]]

# Fields of `meta` that say which cluster an item belongs to; the first one that an item has counts.
CLUSTERS = ("cluster", "topic", "domain")


def read(path: str) -> dict[str, tuple[str, ...]]:
    """Returns {id of an item: its labels}, such as ("domain: bread", "option: rye"), of an item file of any kind.

    Options count in preference pairs alone: the continuations of knowledge items are answers, not things to prefer.

    Raises:
        InputError: the file cannot be read.
    """
    found = {}
    for number, (where, stored) in enumerate(sources.iter_records(path)):
        fields = public_sets.pair_of(stored, where)
        meta = fields.get("meta", {})
        cluster = next((f"{name}: {meta[name]}" for name in CLUSTERS if meta.get(name) is not None), None)
        options = [f"option: {option}" for option in fields.get("options", ())] if "favoured" in fields else []
        found[str(fields.get("id", number))] = tuple(dict.fromkeys([*([cluster] if cluster else []), *options]))
    return found


def of_scored(
    items: Sequence[Mapping[str, Any]], path: str, read_file: Callable[[str], Labels] = read
) -> list[tuple[str, ...]] | None:
    """Returns the labels of items that were scored: their own `cluster`, or else what their file says of them.

    Args:
        items: of the result of an eval.
        path: of the item file.
        read_file: reads it.

    Returns:
        The labels of each item; None where the file is gone or does not have all of the items.
    """
    if any("cluster" in item for item in items):
        return [(f"cluster: {item['cluster']}",) if "cluster" in item else () for item in items]
    if all("cell" in item for item in items):
        # Samples of the cells of a grid, of which no file tells.
        return [()] * len(items)
    try:
        known = read_file(path)
    except InputError:  # the scores are there, and a report of them needs no more; the caller warns
        return None
    return [known[item["id"]] for item in items] if {item["id"] for item in items} <= set(known) else None
