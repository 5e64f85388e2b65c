"""Contrasts that floor or ceiling hides are warned of, and others are not."""

import copy

import numpy as np
import pytest
from analysis_example import entry, example

from msm_jax.analysis import findings as findings_lib
from msm_jax.analysis import limits

PAIR = {"after": 1, "before": -1}
AMPLIFICATION = {"a+": 1, "b+": -1, "a": -1, "b": 1}
BLOCKING = {"aft": 1, "baseline": -1, "msm+aft": -1, "msm": 1}


def test_the_old_demo_is_warned_that_stacking_cannot_show_an_increase():
    """Its documents alone reached .99 on either value, and demonstrations .99: the report said "No warnings"."""
    results = example()
    for arm in ("msm_affordability", "msm_affordability+aft"):
        on = "prefer_affordability"
        results["arms"][arm][on] = entry(np.random.default_rng(0), "base", on, 0.99, 1, 200, 0.0)
        results["arms"][arm][on]["per_seed"] *= 3
        del results["arms"][arm][on]["measures"]
    warnings = findings_lib.analyse(results).warnings
    assert len(warnings) == 1
    assert "stacking/affordability compares msm_affordability+aft (99 %) with msm_affordability (99 %)" in warnings[0]
    assert warnings[0].endswith("at the ceiling: it cannot show an increase.")
    graded = copy.deepcopy(results)
    for name in ("msm_affordability", "msm_affordability+aft"):
        rows = graded["arms"][name]["prefer_affordability"]["per_seed"]
        graded["arms"][name]["prefer_affordability"]["measures"] = {"nats": rows}
    graded["contrasts"]["stacking/affordability"]["measure"] = "nats"
    assert findings_lib.analyse(graded).warnings == (), "a margin has no ceiling"


@pytest.mark.parametrize(
    ("terms", "levels", "hidden"),
    [
        (PAIR, {"after": 0.97, "before": 0.99}, ["at the ceiling: it cannot show an increase."]),
        (PAIR, {"after": 0.02, "before": 0.0}, ["at the floor: it cannot show a decrease."]),
        (PAIR, {"after": 0.99, "before": 0.96}, []),
        (PAIR, {"after": 0.99, "before": 0.01}, []),
        (PAIR, {"after": 0.5, "before": 0.99}, []),
        (PAIR, {"after": float("nan"), "before": 0.99}, []),
        (
            AMPLIFICATION,
            {"a+": 0.99, "b+": 0.02, "a": 0.99, "b": 0.01},
            ["a+ (99 %) with a (99 %) at the ceiling", "b (1 %) with b+ (2 %) at the floor", "a rise", "a fall"],
        ),
        (
            AMPLIFICATION,
            {"a+": 0.99, "b+": 0.2, "a": 0.98, "b": 0.4},
            ["a+ (99 %) with a (98 %) at the ceiling: a rise from one to the other cannot be seen at the ceiling."],
        ),
        (AMPLIFICATION, {"a+": 0.9, "b+": 0.2, "a": 0.7, "b": 0.4}, []),
        (BLOCKING, {"aft": 0.7, "baseline": 0.5, "msm+aft": 0.99, "msm": 0.98}, ["msm (98 %) with msm+aft (99 %)"]),
        (BLOCKING, {"aft": 0.99, "baseline": 0.5, "msm+aft": 0.6, "msm": 0.5}, []),
        (BLOCKING, {"aft": 0.99, "baseline": 0.5, "msm+aft": 0.99, "msm": 0.6}, ["aft (99 %) with msm+aft (99 %)"]),
    ],
)
def test_a_pair_at_floor_or_ceiling_is_named_with_what_it_cannot_show(terms, levels, hidden):
    found = limits.warning("contrast", terms, levels)
    assert bool(found) == bool(hidden)
    for part in hidden:
        assert part in found
