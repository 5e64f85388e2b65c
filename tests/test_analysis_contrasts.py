"""Contrasts on several evals and at equal levels: agreement with brute force, coverage, and what cannot be measured."""

import math

import numpy as np
import pytest

from msm_jax.analysis import equal_level, statistics
from msm_jax.analysis.asked import EqualLevel
from msm_jax.analysis.equal_level import Member
from msm_jax.errors import InputError

# Levels before of the doses of two families, which overlap in part.
LEVELS = {"more": (0.5, 0.6, 0.7, 0.8), "less": (0.55, 0.65, 0.72)}
FAMILIES = EqualLevel(
    *(tuple((f"{name}{i}", f"{name}{i}+") for i in range(len(LEVELS[name]))) for name in ("more", "less"))
)


def test_mean_of_two_contrasts_is_the_mean_of_their_estimates_and_of_each_seed():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(4, 30)), rng.normal(size=(4, 50))
    first, second = statistics.Part(first), statistics.Part(second)
    alone = [statistics.estimate(part) for part in (first, second)]
    mean = statistics.estimate(*statistics.mean_parts([("a", first), ("b", second)]))
    assert mean.diff == pytest.approx(np.mean([found.diff for found in alone]))
    np.testing.assert_allclose(mean.per_seed, np.mean([found.per_seed for found in alone], axis=0))
    assert (mean.n_seeds, mean.n_items) == (4, 80)


def test_mean_of_two_contrasts_on_one_eval_is_the_contrast_of_the_mean_terms():
    rng = np.random.default_rng(1)
    arms = {arm: rng.random((3, 40)) for arm in "abc"}
    pair = [statistics.part(arms, terms) for terms in ({"a": 1, "b": -1}, {"c": 1, "b": -1})]
    mean = statistics.estimate(*statistics.mean_parts([("e", pair[0]), ("e", pair[1])]))
    whole = statistics.contrast(arms, {"a": 0.5, "c": 0.5, "b": -1})
    assert mean.ci95 == pytest.approx(whole.ci95)
    assert mean.p_value == pytest.approx(whole.p_value)


def test_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says():
    """Runs differ in a way that both evals share, so that intervals of each alone could not just be averaged."""
    rng, trials, covered = np.random.default_rng(2), 250, 0
    for _ in range(trials):
        run = rng.normal(0, 0.08, (4, 1))
        parts = [
            run + rng.normal(0, 0.15, (1, items)) + rng.normal(0, 0.4, (4, items)) for items in (60, 40)
        ]
        members = [("a", statistics.Part(parts[0])), ("b", statistics.Part(parts[1]))]
        low, high = statistics.estimate(*statistics.mean_parts(members), test=False).ci95
        covered += low <= 0 <= high
    assert covered / trials >= 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / trials)


def test_seeds_without_a_score_in_one_part_are_left_out_of_both():
    first, second = np.ones((3, 4)), np.full((3, 2), 2.0)
    second[1] = math.nan
    found = statistics.estimate(statistics.Part(first), statistics.Part(second))
    assert (found.n_seeds, found.diff) == (2, 3.0)
    shared = statistics.estimate(statistics.Part(first[:1]), statistics.Part(second))
    assert shared.diff == 3.0, "a shared part is in every seed"


def test_contrasts_with_other_seeds_have_no_mean():
    with pytest.raises(InputError, match="differ in"):
        statistics.mean_parts([("a", statistics.Part(np.ones((2, 3)))), ("b", statistics.Part(np.ones((3, 3))))])


def arms(rng, gain, seeds=4, items=200, run_sd=0.0) -> dict[str, np.ndarray]:
    """0/1 scores of all arms of `FAMILIES`; `gain` is {family: function from level to gain}."""
    scores = {}
    for name, levels in LEVELS.items():
        for i, level in enumerate(levels):
            for arm, p in ((f"{name}{i}", level), (f"{name}{i}+", level + gain[name](level))):
                run = rng.normal(0, run_sd, (seeds, 1))
                scores[arm] = (rng.random((seeds, items)) < np.clip(p + run, 0, 1)).astype(float)
    return scores


def test_mean_gain_is_the_integral_of_the_lines_between_the_levels():
    rng = np.random.default_rng(3)
    for _ in range(20):
        level, gain = rng.random((1, 5)), rng.normal(size=(1, 5))
        low, high = np.sort(rng.uniform(level.min(), level.max(), 2))
        at = np.linspace(low, high, 20_001)
        order = np.argsort(level[0])
        exact = np.trapezoid(np.interp(at, level[0, order], gain[0, order]), at) / (high - low)
        found = equal_level.mean_gain(level, gain, np.array([low]), np.array([high]))
        assert found[0] == pytest.approx(exact, abs=1e-6)
        point = equal_level.mean_gain(level, gain, np.array([low]), np.array([low]))
        assert point[0] == pytest.approx(np.interp(low, level[0, order], gain[0, order]))


def test_a_planted_difference_of_gains_at_equal_levels_is_recovered():
    rng = np.random.default_rng(4)
    scores = arms(rng, {"more": lambda level: 0.15, "less": lambda level: 0.05}, seeds=6, items=4000)
    found, gains = equal_level.contrast([Member(FAMILIES, scores)])
    assert found.diff == pytest.approx(0.10, abs=0.02)
    assert found.ci95[0] < found.diff < found.ci95[1]
    assert found.ci95[0] > 0
    assert (gains.more, gains.less) == (pytest.approx(0.15, abs=0.02), pytest.approx(0.05, abs=0.02))
    assert gains.level == (pytest.approx(0.55, abs=0.01), pytest.approx(0.72, abs=0.01))
    assert gains.levels[0][0] == pytest.approx(LEVELS["more"], abs=0.01)


def test_two_families_on_one_curve_do_not_differ_though_their_levels_do():
    """The gain falls with the level. A plain difference of mean gains sees a difference; at equal levels there is none,
    and the interval covers 0 about as often as it says."""
    rng, trials, covered, plain = np.random.default_rng(5), 150, 0, []
    curve = {"more": lambda level: 0.5 * (0.9 - level), "less": lambda level: 0.5 * (0.9 - level)}
    shifted = EqualLevel(FAMILIES.more, FAMILIES.less[:2])
    for _ in range(trials):
        scores = arms(rng, curve, items=300, run_sd=0.02)
        found, _ = equal_level.contrast([Member(shifted, scores)], draws=500)
        covered += found.ci95[0] <= 0 <= found.ci95[1]
        means = [np.mean([scores[b].mean() - scores[a].mean() for a, b in f]) for f in (shifted.more, shifted.less)]
        plain.append(means[0] - means[1])
    assert covered / trials >= 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / trials)
    assert np.mean(plain) < -0.02


def test_with_levels_that_do_not_vary_it_is_the_plain_difference_of_differences():
    rng = np.random.default_rng(6)
    before = np.tile([[0.0, 1.0]], (4, 50))
    scores = {"b": before, "x": rng.random((4, 100)), "y": rng.random((4, 100))}
    found, gains = equal_level.contrast([Member(EqualLevel((("b", "x"),), (("b", "y"),)), scores)])
    plain = statistics.contrast(scores, {"x": 1, "y": -1})
    assert found.diff == pytest.approx(plain.diff)
    np.testing.assert_allclose(found.per_seed, plain.per_seed)
    assert found.ci95 == pytest.approx(plain.ci95, abs=0.01)
    assert gains.level == (0.5, 0.5)


def test_families_without_a_common_level_are_not_measurable():
    rng = np.random.default_rng(7)
    scores = arms(rng, {"more": lambda level: 0.1, "less": lambda level: 0.1})
    apart = EqualLevel(FAMILIES.more[:1], FAMILIES.less[2:])
    found, gains = equal_level.contrast([Member(apart, scores)])
    assert math.isnan(found.diff)
    assert all(math.isnan(bound) for bound in found.ci95)
    assert found.method == "not measurable: the families share no level"
    assert gains.levels[0] == (pytest.approx([0.5], abs=0.05), pytest.approx([0.72], abs=0.05))
    # A level of .53 lies between .50 and .54, but not in every draw.
    levels = {"a": 0.50, "b": 0.54, "c": 0.53}
    near = {arm: np.tile(rng.permutation(100) < round(100 * p), (2, 1)).astype(float) for arm, p in levels.items()}
    between = EqualLevel((("a", "c"), ("b", "c")), (("c", "a"),))
    found, gains = equal_level.contrast([Member(between, near)])
    assert math.isnan(found.diff)
    assert found.method.startswith("not measurable: the families share a level in only ")
    assert gains.level == (0.53, 0.53)


def test_mean_over_two_evals_draws_seeds_jointly_and_averages_the_gains():
    rng = np.random.default_rng(8)
    both = [arms(rng, {"more": lambda level, g=g: g, "less": lambda level: 0.0}, items=500) for g in (0.1, 0.2)]
    found, gains = equal_level.contrast([Member(FAMILIES, scores) for scores in both])
    alone = [equal_level.contrast([Member(FAMILIES, scores)])[0] for scores in both]
    assert found.diff == pytest.approx(np.mean([one.diff for one in alone]))
    assert found.n_items == 1000
    assert len(gains.levels) == 2
    one_seed, _ = equal_level.contrast([Member(FAMILIES, {arm: values[:1] for arm, values in both[0].items()})])
    assert one_seed.n_seeds == 1
    assert one_seed.ci95[0] < one_seed.diff < one_seed.ci95[1]
