"""What the report says of an experiment: warnings, and verdicts on what was expected."""

import copy
import re

import numpy as np
import pytest
from analysis_example import entry, example
from scipy import stats

from msm_jax.analysis import encode, html, plots
from msm_jax.analysis import findings as findings_lib


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


def test_few_steps_of_midtraining_are_warned_of_where_an_expected_effect_is_missing(results):
    def steps(runs_of, missing):
        copied = copy.deepcopy(results)
        copied["cost"]["msm_tradition"].update(optimizer_steps=3 * runs_of)
        if missing == "unasked":
            copied["expectations"] = {}
        elif missing:
            copied["expectations"]["dissociation/conflict"].update(min=0.9)
        return any("msm_tradition took 150 optimizer steps" in warning for warning in warnings_of(copied))

    assert steps(150, missing=True)
    assert steps(150, missing="unasked")
    assert not steps(150, missing=False)
    assert not steps(200, missing=True)


def test_rows_that_fill_a_little_differently_are_no_other_dose(results):
    nearly = copy.deepcopy(results)
    nearly["arm_tokens"]["msm_tradition"]["midtraining"] += 9000
    assert warnings_of(nearly) == warnings_of(results)


def test_an_own_dose_is_compared_with_arms_of_that_dose(results):
    low = copy.deepcopy(results)
    for arm in ("msm_affordability", "msm_tradition"):
        low["arms"][f"{arm}@low"] = low["arms"][arm]
        low["arm_tokens"][f"{arm}@low"] = {"last": 20480, "midtraining": 4096}
    low["doses"] = {"low": {f"{arm}@low": arm for arm in ("msm_affordability", "msm_tradition")}}
    assert warnings_of(low) == []
    low["arm_tokens"]["msm_tradition@low"]["midtraining"] = 8192
    assert len(warnings_of(low)) == 1
    del low["doses"]
    assert "921,600 in msm_affordability" in " ".join(warnings_of(low)), "a name alone does not make a dose"


def faulty() -> dict:
    """The example with low doses, and with everything wrong that a declaration makes the report warn of."""
    results = example()
    for arm in ("msm_affordability", "msm_tradition"):
        results["arms"][f"{arm}@low"] = results["arms"][arm]
        results["chains"][f"{arm}@low"] = ["pretrain", f"{arm}@low", "generic"]
    results["doses"] = {"low": {f"{arm}@low": arm for arm in ("msm_affordability", "msm_tradition")}}
    results["midtraining"] += ["msm_affordability@low", "msm_tradition@low"]
    results["arm_tokens"]["msm_affordability@low"] = {"last": 20480, "midtraining": 4096}
    results["arm_tokens"]["msm_tradition@low"] = {"last": 20480, "midtraining": 8192}
    results["cost"]["msm_tradition"]["optimizer_steps"] = 3 * 150
    results["expectations"]["dissociation/conflict"].update(min=0.9)
    results["arms"]["base"]["gate"] = entry(np.random.default_rng(0), "base", "gate", 0.8, 3, 200, 0.0)
    return results


def renamed(value, names: dict[str, str]):
    """`value` with every name replaced by that in `names`, among the parts of labels and ids too."""
    if isinstance(value, str):
        return "/".join(names.get(part, part) for part in value.split("/"))
    if isinstance(value, dict):
        return {renamed(key, names): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return value


def test_names_that_say_nothing_give_the_same_warnings_and_figures():
    """The demo's arms, phases and evals under the names "n0", "n1", … are reported as under their own."""
    results = faulty()
    phases = {phase for chain in results["chains"].values() for phase in chain}
    evals = {name for scored in results["arms"].values() for name in scored}
    names = {name: f"n{i}" for i, name in enumerate(sorted({*results["arms"], *phases, *evals}))}
    found, anonymous = (findings_lib.analyse(r) for r in (results, renamed(results, names)))
    assert len(found.warnings) == 4
    words = sorted(names, key=len, reverse=True)
    expected = [re.sub("|".join(map(re.escape, words)), lambda m: names[m[0]], text) for text in found.warnings]
    assert list(anonymous.warnings) == expected
    colors = plots.arm_colors(found)
    assert plots.arm_colors(anonymous) == {names[arm]: color for arm, color in colors.items()}
    assert colors["msm_tradition@low"] == colors["msm_tradition"] != colors["msm_tradition+aft"]
    assert colors["msm_tradition@low"][0] == colors["msm_tradition+aft"][0] != colors["msm_affordability"][0]
    assert anonymous.results.evals() == [names[name] for name in found.results.evals()]
    assert panels(anonymous) == {part: [names[name] for name in shown] for part, shown in panels(found).items()}
    assert panels(found)["gates"] == ["gate", "knowledge"]
    assert all(name.endswith("_greedy") for name in panels(found)["generated"])


def panels(found: findings_lib.Findings) -> dict[str, list[str]]:
    """The evals of which the page shows panels, in each of its three places."""
    page = re.sub("<wbr>", "", html.render(found))
    arms, _, gates = page[page.index('id="arms"') : page.index('id="curves"')].partition('id="gates"')
    scored, _, generated = arms.partition("<details")
    places = {"arms": scored, "generated": generated, "gates": gates}
    return {part: re.findall(r'<h3 class="name">([^<]+)</h3>', text) for part, text in places.items()}


def test_names_like_those_of_the_demo_mean_nothing_unless_they_are_declared():
    results = faulty()
    for field in ("midtraining", "doses", "generated", "gates"):
        del results[field]
    del results["expectations"]["gate"]
    found = findings_lib.analyse(results)
    (warning,) = [warning for warning in found.warnings if not warning.startswith("dissociation/conflict")]
    assert warning.startswith("Arms have unequal tokens in midtraining: 4,096 in msm_affordability@low; 8,192 in")
    assert panels(found) == {"arms": found.results.evals(), "generated": [], "gates": []}
    colors = plots.arm_colors(found)
    assert colors["msm_tradition"][0] != colors["msm_tradition+aft"][0]
    assert all(solid for _, solid in colors.values())


def asked(results: dict, contrasts: dict, expectations: dict) -> findings_lib.Findings:
    """The findings of the example with other contrasts and expectations."""
    return findings_lib.analyse(results | {"contrasts": contrasts, "expectations": expectations})


def test_a_contrast_is_of_the_measure_that_it_names(results):
    terms = {"msm_affordability+aft": 1, "msm_tradition+aft": -1}
    specs = {m: {"eval": "conflict", "terms": terms, "measure": m} for m in ("share", "probability", "nats")}
    found = asked(results, specs, {"nats": {"min": 0.5, "max": 9}, "probability": {"min": 0.5}})
    for measure, contrast in found.contrasts.items():
        rows = [
            results["arms"][arm]["conflict"]["per_seed"]
            if measure == "share"
            else results["arms"][arm]["conflict"]["measures"][measure]
            for arm in terms
        ]
        assert contrast.estimate.diff == pytest.approx(np.mean(rows[0]) - np.mean(rows[1]))
        assert encode.content(found)["contrasts"][measure]["measure"] == measure
    nats = found.contrasts["nats"]
    size = f"{nats.estimate.diff:.2f} nats"
    assert nats.sentence.startswith(f"On conflict, msm_affordability+aft scores {size} higher than msm_tradition+aft")
    assert [verdict.text for verdict in nats.verdicts] == ["at least 0.50 nats", "at most 9.00 nats"]
    assert "On conflict, in probability, " in found.contrasts["probability"].sentence
    assert found.contrasts["probability"].verdicts[0].text == "below 50 points"


def test_a_mean_of_contrasts_names_both_evals_and_both_contrasts(results):
    stacking = {name: spec for name, spec in results["contrasts"].items() if name.startswith("stacking")}
    found = asked(results, stacking | {"mean": {"mean_of": list(stacking)}}, {"mean": {"min": 0.5, "above_zero": True}})
    entries = encode.content(found)["contrasts"]
    assert entries["mean"]["eval"] == "prefer_affordability, prefer_tradition"
    assert entries["mean"]["diff"] == pytest.approx(np.mean([entries[name]["diff"] for name in stacking]), abs=2e-6)
    assert set(entries["mean"]) == set(entries["stacking/tradition"])
    assert entries["mean"]["n_items"] == 400
    claim = "On prefer_affordability and prefer_tradition, the mean of stacking/affordability and stacking/tradition is"
    assert found.contrasts["mean"].sentence.startswith(claim)
    assert encode.content(found)["expectations"] == {"mean": "failed"}


def test_gains_at_equal_levels_are_stated_with_the_level(results):
    families = {"more": [["base", "msm_affordability"]], "less": [["base", "aft"]]}
    apart = {"more": [["msm_affordability", "aft"]], "less": [["msm_tradition", "aft"]]}
    on = {"eval": "prefer_affordability", "measure": "share"}
    sentence = "From {level}, explanations gain {more} and examples {less}: {amount} {direction}"
    specs = {
        "equal": on | {"equal_level": families},
        "told": on | {"equal_level": families, "sentence": sentence},
        "apart": on | {"equal_level": apart},
    }
    found = asked(results, specs, {"equal": {"above_zero": True}, "apart": {"above_zero": True}})
    entry = encode.content(found)["contrasts"]["equal"]
    means = {arm: np.mean(results["arms"][arm]["prefer_affordability"]["per_seed"]) for arm in results["arms"]}
    assert entry["equal_level"]["more"] == pytest.approx(means["msm_affordability"] - means["base"], abs=1e-6)
    assert entry["equal_level"]["level"] == [pytest.approx(means["base"], abs=1e-6)] * 2
    assert (entry["p_value"] < 0.05) == (entry["ci95"][0] > 0 or entry["ci95"][1] < 0)
    level, more, less = (round(100 * x) for x in (means["base"], *(entry["equal_level"][k] for k in ("more", "less"))))
    gained = f"the first doses gain +{more} and the second +{less} points, a difference of +"
    assert f"at equal levels before ({level} %), {gained}" in found.contrasts["equal"].sentence
    told = f"From {level} %, explanations gain +{more} and examples +{less}: "
    assert found.contrasts["told"].sentence.startswith(told)
    assert found.contrasts["apart"].verdicts[0].status == "open"
    assert "the first doses are at " in found.contrasts["apart"].sentence
    assert "apart: not measurable: the families share no level." in found.warnings


def test_a_difference_of_differences_reads_as_one(results):
    terms = {"msm_affordability+aft": 1, "msm_tradition+aft": -1, "msm_affordability": -1, "msm_tradition": 1}
    (contrast,) = asked(results, {"c": {"eval": "conflict", "terms": terms}}, {}).contrasts.values()
    pairs = r"msm_affordability\+aft − msm_tradition\+aft is \d+ points smaller than msm_affordability − msm_tradition"
    assert re.match(rf"On conflict, the difference {pairs} \(95 % interval of the difference ", contrast.sentence)


def test_a_level_is_expected_between_bounds_under_any_name(results):
    level = {"eval": "prefer_affordability", "arm": "msm_affordability"}
    found = asked(results, results["contrasts"], {
        "room": level | {"min": 0.55, "max": 0.90}, "low": level | {"max": 0.6}, "gate": {"min": 0.95, "max": 0.96},
    })  # fmt: skip
    content = encode.content(found)
    assert content["expectations"] == {"room": "met", "low": "failed", "gate": "failed"}
    rows = {row["name"]: row for row in content["verdicts"]}
    assert rows["low"]["checks"] == [{"status": "failed", "text": "above 60 %"}]
    mean = content["arms"]["msm_affordability"]["prefer_affordability"]["mean"]
    assert rows["room"]["value"] == mean
    assert rows["room"]["ci95"][0] < mean < rows["room"]["ci95"][1]
    assert (rows["room"]["eval"], rows["room"]["arm"]) == ("prefer_affordability", "msm_affordability")
    assert set(content["gates"]) == {"gate", "knowledge"}
    assert any("prefer_affordability of msm_affordability is" in warning for warning in found.warnings)


def test_one_seed_is_warned_of_and_drawn_over_items():
    found = findings_lib.analyse(example(seeds=1))
    assert any(warning.startswith("One seed") for warning in found.warnings)
    contrast = encode.content(found)["contrasts"]["dissociation/conflict"]
    assert contrast["n_seeds"] == 1
    assert contrast["method"].startswith("t interval over 200 items")
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
    half = [stats.t.ppf(0.975, n - 1) * deviation / np.sqrt(n) for n in (seeds, seeds - 1)]
    assert half[0] <= wanted < half[1]
