"""What the items of an eval have in common: the cluster that they belong to, and the options that they compare.

A report does not treat items that share one of these as independent (`analysis.dependence`). They are read from the
item file, not from the results of an eval, so that they can be added to a file whose items have been scored.
"""

from msm_jax.data import sources
from msm_jax.evals import public_sets

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
