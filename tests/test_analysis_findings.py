"""What the report says of an experiment: warnings, and verdicts on what was expected."""

import copy
import re

import numpy as np
import pytest
from analysis_example import entry, example

from msm_jax.analysis import findings as findings_lib
from msm_jax.analysis import statistics


@pytest.fixture(scope="module")
def results() -> dict:
    return example()


def warnings_of(results: dict) -> list[str]:
    return list(findings_lib.analyse(results).warnings)


def test_a_sound_experiment_has_no_warning(results):
    assert warnings_of(results) == []


def test_each_fault_is_warned_of_by_name(results):
    def changed(change) -> str:
        copied = copy.deepcopy(results)
        change(copied)
        return "\n".join(warnings_of(copied))

    few = changed(lambda r: r["cost"]["msm_tradition"].update(optimizer_steps=3 * 150))
    assert re.search(r"msm_tradition took 150 optimizer steps", few)
    assert "msm_tradition" not in changed(
        lambda r: r["cost"]["msm_tradition"].update(optimizer_steps=3 * 200)
    )

    low_gate = changed(
        lambda r: r["arms"]["base"].update(
            gate=entry(np.random.default_rng(0), "base", "gate", 0.8, 3, 200, 0.0)
        )
    )
    assert re.search(r"gate of base is 8\d %", low_gate)

    def unparsed(r):
        entry = r["arms"]["aft"]["cheese_greedy"]
        entry["parse_rate"] = 0.9
        entry["per_seed"][0][:80] = [None] * 80

    assert re.search(r"cheese_greedy: parse rate below 95 % in aft \(90 %\)", changed(unparsed))
    assert re.search(r"last stage.*20,480.*", changed(lambda r: r["arm_tokens"]["aft"].update(last=10240)))
    assert "midtraining" in changed(lambda r: r["arm_tokens"]["msm_tradition"].update(midtraining=5))
    assert "something else" in changed(lambda r: r.update(warnings=["something else"]))
    assert "dissociation/conflict" in changed(
        lambda r: r["expectations"]["dissociation/conflict"].update(min=0.9)
    )


def test_rows_that_fill_a_little_differently_are_no_other_dose(results):
    nearly = copy.deepcopy(results)
    nearly["arm_tokens"]["msm_tradition"]["midtraining"] *= 1.01
    assert warnings_of(nearly) == warnings_of(results)


def test_an_own_dose_is_compared_with_arms_of_that_dose(results):
    low = copy.deepcopy(results)
    for arm in ("msm_affordability", "msm_tradition"):
        low["arms"][f"{arm}@low"] = low["arms"][arm]
        low["arm_tokens"][f"{arm}@low"] = {"last": 20480, "midtraining": 4096}
    assert warnings_of(low) == []
    low["arm_tokens"]["msm_tradition@low"]["midtraining"] = 8192
    assert len(warnings_of(low)) == 1


def test_one_seed_is_warned_of_and_drawn_over_items():
    found = findings_lib.analyse(example(seeds=1))
    assert any(warning.startswith("One seed") for warning in found.warnings)
    contrast = found.report["contrasts"]["dissociation/conflict"]
    assert contrast["n_seeds"] == 1
    assert "over items, one seed" in contrast["method"]
    assert found.contrasts["dissociation/conflict"].sentence.endswith("1 seed.")


def neutral(offsets: list[float], items: int = 400, mean: float = 0.5) -> findings_lib.Verdict:
    """The verdict on "inside ±.20" for per-seed differences that are exactly `offsets`."""
    ids = [str(i) for i in range(items)]
    results = {
        "experiment": "x",
        "seeds": [{"world": 0, "pretrain": 0, "seed": s} for s in range(len(offsets))],
        "arms": {
            "a": {"e": {"per_seed": [[mean + offset] * items for offset in offsets], "item_ids": ids}},
            "b": {"e": {"per_seed": [[mean] * items for _ in offsets], "item_ids": ids}},
        },
        "contrasts": {"neutral": {"eval": "e", "terms": {"a": 1, "b": -1}}},
        "expectations": {"neutral": {"inside": 0.2}},
    }
    return findings_lib.analyse(results).contrasts["neutral"].verdicts[0]


def test_neutral_contrasts_are_inside_outside_or_not_resolved():
    assert neutral([0.02, -0.01, 0.0]).status == "met"
    assert neutral([0.30, 0.31, 0.29]).status == "failed"
    verdict = neutral([0.15, -0.15, 0.02])
    assert verdict.status == "open"
    seeds = int(re.search(r"(\d+) seeds would", verdict.text)[1])
    assert seeds > 3
    deviation = np.std([0.15, -0.15, 0.02], ddof=1)
    wanted = 0.2 - np.mean([0.15, -0.15, 0.02])
    assert statistics.t_half_width(deviation, seeds) <= wanted < statistics.t_half_width(deviation, seeds - 1)
