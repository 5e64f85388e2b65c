"""Which difference an experiment can see with its seeds and items, said before it runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msm_jax.analysis import asked, power
from msm_jax.analysis.sentences import seeds_text
from msm_jax.errors import InputError
from msm_jax.evals import kinds, labels
from msm_jax.experiments.config import book_of
from msm_jax.experiments.context import Context
from msm_jax.foundation import storage

# Standard deviations of the difference of two arms in shares: over seeds, over items, and of what neither says. They
# are the medians of four contrasts of a world of `cheese_mini` with six seeds, rounded up.
DEVIATIONS = (0.07, 0.22, 0.30)
# The share of the items' variance that items of one domain are taken to have in common; the world above showed none.
ICC = 0.1
# Items of an eval whose file does not exist yet.
ITEMS = 200


def lines(context: Context, workdir: Path) -> Iterator[str]:
    """Yields a line on each contrast that an earlier report has measured, and on the evals of the others."""
    contrasts = context.config.contrasts
    measured = _measured(workdir, contrasts)
    for name, found in measured.items():
        yield f"power: {name} would show {found} in 80 % of repetitions, as far as it varied in the last report"
    on = {member.eval for name in contrasts for member in asked.members_of(name, contrasts) if name not in measured}
    for name in sorted(on):
        number, clusters, known = _items(name, context)
        n_seeds = len(context.config.seeds)
        spread = power.planned(n_seeds, number, clusters, DEVIATIONS, ICC if clusters > 1 else 0.0)
        items = f"{number} items{f' in {clusters} clusters' if clusters > 1 else ''}{'' if known else ' (assumed)'}"
        shows = _shows(power.detectable(spread))
        yield f"power: {name}, {seeds_text(n_seeds)} × {items}: a difference of two arms {shows}"
        cells = _cells(name, context)
        if cells > 1:
            alone = power.planned(n_seeds, number // cells, 0, DEVIATIONS, 0.0)
            yield (
                f"power: one of the {cells} cells of {name}, {seeds_text(n_seeds)} × {number // cells} items: "
                f"{_shows(power.detectable(alone, cells))}, corrected for the number of cells"
            )
    if on:
        seeds, items, both = (f"{100 * deviation:.0f}" for deviation in DEVIATIONS)
        varies = f"{seeds} points over seeds, {items} over items and {both} otherwise"
        yield f"power assumes that a difference varies by {varies}"


def _shows(size: float) -> str:
    return f"shows from {100 * size:.0f} points on (80 %)" if size < 1 else "shows too rarely, however large"


def _cells(name: str, context: Context) -> int:
    """Returns the number of cells of an eval that samples the cells of a grid, 0 for another eval."""
    from msm_jax.experiments import eval_costs
    from msm_jax.experiments.nodes import evals

    own = kinds.path_of(context.config.evals[name])
    return eval_costs.cells(evals.config_of(name, own, context)) if own else 0


def _measured(workdir: Path, contrasts: Mapping[str, Any]) -> dict[str, str]:
    """Returns {contrast: the difference that it can show} of the report in `workdir`, if there is one."""
    report = storage.find_json(workdir / "report.json") or {}
    found = {}
    for name, entry in report.get("contrasts", {}).items():
        size = entry.get("detectable")
        if name in contrasts and size is not None:
            nats = entry["measure"] == "nats"
            found[name] = f"{size:.2f} nats" if nats else f"{100 * size:.0f} points"
    return found


def _items(name: str, context: Context) -> tuple[int, int, bool]:
    """Returns the number of items of an eval and of their clusters, and whether they are known."""
    from msm_jax.experiments import eval_costs
    from msm_jax.experiments.nodes import evals

    fields = context.config.evals[name]
    path = str(context.substitute(fields.get("path", "")))
    own = kinds.path_of(fields)
    if book_of(context.config, name) or (not path and own and not fields.get("after")):
        # The items come with the kind, which says itself what they share.
        config = evals.config_of(name, own, context)
        return eval_costs.items(config), eval_costs.clusters(config), True
    if not path or context.awaits(path):
        return ITEMS, 0, False
    try:
        found = labels.read(path)
    except InputError:  # `dry_run` itself says what is wrong with the file
        return ITEMS, 0, False
    clusters = {label for item in found.values() for label in item if not label.startswith("option: ")}
    return max(1, len(found)), len(clusters), True
