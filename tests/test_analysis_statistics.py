"""Intervals and p-values: agreement with brute force, calibration by simulation, pairing, missing answers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from msm_jax.analysis import statistics
from msm_jax.errors import InputError


def simulate(rng, seeds, items, *, effect=0.0, item_sd=0.15, seed_sd=0.05):
    """Two arms of 0/1 scores `[seeds, items]`; items and runs each have effects of their own, with mean 0."""
    base = rng.uniform(0.35, 0.65, items)
    item_effect = rng.normal(0, item_sd, items)
    arms = {}
    for arm, sign in (("a", 0.5), ("b", -0.5)):
        run_effect = rng.normal(0, seed_sd, (seeds, 1))
        p = np.clip(base + sign * (effect + item_effect) + run_effect, 0, 1)
        arms[arm] = (rng.random((seeds, items)) < p).astype(float)
    return arms


TERMS = {"a": 1, "b": -1}


@pytest.mark.parametrize(
    ("seeds", "items", "item_sd", "seed_sd"),
    [(3, 60, 0.15, 0.05), (3, 60, 0.0, 0.0), (5, 60, 0.3, 0.1), (4, 120, 0.15, 0.15)],
)
def test_interval_covers_the_truth_about_as_often_as_it_says(seeds, items, item_sd, seed_sd):
    trials, covered = 250, 0
    rng = np.random.default_rng([1, seeds, items])
    for _ in range(trials):
        arms = simulate(rng, seeds, items, item_sd=item_sd, seed_sd=seed_sd)
        low, high = statistics.contrast(arms, TERMS, draws=1000, flips=100).ci95
        covered += low <= 0 <= high
    # The wider of two intervals may cover more than 95 %, not less (2.5 standard errors of the simulation).
    assert covered / trials >= 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / trials)


def test_each_half_of_the_interval_is_needed():
    rng = np.random.default_rng(2)
    bootstrap_alone = t_alone = 0
    trials = 200
    for _ in range(trials):
        arms = simulate(rng, 3, 60, item_sd=0.0, seed_sd=0.2)
        differences = arms["a"] - arms["b"]
        low, high = np.percentile(statistics.bootstrap_means(differences, draws=1000), [2.5, 97.5])
        bootstrap_alone += low <= 0 <= high
        arms = simulate(rng, 8, 40, item_sd=0.6, seed_sd=0.0)
        per_seed = (arms["a"] - arms["b"]).mean(axis=1)
        t_alone += abs(per_seed.mean()) <= statistics.t_half_width(per_seed.std(ddof=1), 8)
    assert bootstrap_alone / trials < 0.9
    assert t_alone / trials < 0.9


def test_p_value_is_uniform_under_the_null_of_no_item_effect_and_small_under_an_effect():
    rng = np.random.default_rng(3)
    null = [
        statistics.contrast(
            simulate(rng, 3, 80, item_sd=0.0, seed_sd=0.0), TERMS, draws=100, flips=999
        ).p_value
        for _ in range(300)
    ]
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(null) <= level) - level) <= 3 * math.sqrt(level * (1 - level) / 300)
    effect = [
        statistics.contrast(simulate(rng, 3, 80, effect=0.3), TERMS, draws=100, flips=999) for _ in range(50)
    ]
    assert np.mean([found.p_value <= 0.01 for found in effect]) >= 0.9


def test_an_effect_of_the_expected_size_is_found():
    rng = np.random.default_rng(4)
    found = [
        statistics.contrast(simulate(rng, 3, 200, effect=0.4), TERMS, draws=1000, flips=100)
        for _ in range(50)
    ]
    assert np.mean([contrast.ci95[0] > 0 for contrast in found]) >= 0.8


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_sign_flip_agrees_with_all_flips(values):
    differences = np.array([values], float) / 4
    exact = [
        abs(np.dot(signs, values)) >= abs(sum(values))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    p_value = statistics.sign_flip_p_value(differences, flips=20_000)
    assert p_value == pytest.approx(np.mean(exact), abs=5 * math.sqrt(0.25 / 20_000) + 1e-4)
    assert p_value == statistics.sign_flip_p_value(-differences, flips=20_000)


def test_bootstrap_agrees_with_all_resamples():
    values = np.array([[1.0, 0.0, 0.5], [0.0, np.nan, 1.0]])
    means, weights = [], []
    for seeds in itertools.product(range(2), repeat=2):
        for items in itertools.product(range(3), repeat=3):
            per_seed = [values[s, list(items)] for s in seeds]
            kept = [row[np.isfinite(row)].mean() for row in per_seed if np.isfinite(row).any()]
            if kept:
                means.append(np.mean(kept))
                weights.append(1.0)
    drawn = statistics.bootstrap_means(values, draws=40_000)
    assert drawn.mean() == pytest.approx(np.mean(means), abs=0.01)
    assert drawn.std() == pytest.approx(np.std(means), abs=0.01)
    for at in np.unique(means):
        assert np.mean(drawn <= at + 1e-9) == pytest.approx(np.mean(np.array(means) <= at + 1e-9), abs=0.02)


def test_pairing_by_item_narrows_the_interval():
    rng = np.random.default_rng(5)
    shared = (rng.random((1, 200)) < 0.5).astype(float)
    other = np.where(rng.random((1, 200)) < 0.05, 1 - shared, shared)
    paired = statistics.contrast({"a": shared, "b": other}, TERMS).ci95
    shuffled = statistics.contrast({"a": shared, "b": rng.permuted(other, axis=1)}, TERMS).ci95
    assert paired[1] - paired[0] < 0.5 * (shuffled[1] - shuffled[0])


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 10_000),
    st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0]), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_contrast_is_the_combination_of_the_arms_means(seeds, items, seed, coefficients):
    rng = np.random.default_rng(seed)
    arms = {f"arm{i}": rng.random((seeds if i else 1, items)) for i in range(len(coefficients))}
    terms = dict(zip(arms, coefficients, strict=True))
    found = statistics.contrast(arms, terms, draws=50, flips=50)
    means = [statistics.summarise(array).mean for array in arms.values()]
    assert found.diff == pytest.approx(np.dot(coefficients, means), abs=1e-12)
    assert found.n_seeds == (seeds if len(coefficients) > 1 else 1)
    assert found.n_items == items
    assert 0 < found.p_value <= 1
    assert found == statistics.contrast(arms, terms, draws=50, flips=50)


def test_unparsed_answers_leave_their_pair_and_nothing_else():
    a = np.array([[1.0, np.nan, 1.0, 0.0], [1.0, 1.0, np.nan, np.nan]])
    b = np.array([[0.0, 0.0, np.nan, 0.0], [0.0, 1.0, 1.0, np.nan]])
    found = statistics.contrast({"a": a, "b": b}, TERMS)
    assert found.per_seed == (pytest.approx(0.5), pytest.approx(0.5))
    assert (found.diff, found.n_items, found.n_seeds) == (0.5, 3, 2)
    found = statistics.contrast({"a": a, "b": np.vstack([b[:1], np.full((1, 4), np.nan)])}, TERMS)
    assert (found.diff, found.n_seeds) == (0.5, 1)
    nothing = statistics.contrast({"a": a, "b": np.full((2, 4), np.nan)}, TERMS)
    assert math.isnan(nothing.diff)
    assert math.isnan(nothing.p_value)
    assert (nothing.n_seeds, nothing.n_items) == (0, 0)


def test_summary():
    scores = np.array([[1.0, 0.0, np.nan, 1.0], [0.0, 0.0, 1.0, 1.0], [np.nan] * 4])
    summary = statistics.summarise(scores)
    assert summary.per_seed[:2] == (pytest.approx(2 / 3), 0.5)
    assert math.isnan(summary.per_seed[2])
    assert summary.mean == pytest.approx((2 / 3 + 0.5) / 2)
    assert summary.sem == pytest.approx(stats.sem([2 / 3, 0.5]))
    assert (summary.n_items, summary.parse_rate) == (4, pytest.approx(7 / 12))
    one = statistics.summarise(scores[1:2])
    assert one.sem == pytest.approx(stats.sem(scores[1]))


def test_the_method_names_what_was_used():
    rng = np.random.default_rng(6)
    noisy_seeds = {"a": np.repeat([[0.2], [0.5], [0.8]], 50, axis=1), "b": np.full((3, 50), 0.5)}
    found = statistics.contrast(noisy_seeds, TERMS)
    assert found.method.startswith("t interval over 3")
    half = stats.t.ppf(0.975, 2) * 0.3 / math.sqrt(3)
    assert found.ci95 == (pytest.approx(-half), pytest.approx(half))
    noisy_items = {
        "a": np.repeat((rng.random((1, 50)) < 0.5).astype(float), 3, axis=0),
        "b": np.full((3, 50), 0.5),
    }
    found = statistics.contrast(noisy_items, TERMS)
    assert found.method.startswith("hierarchical bootstrap")
    assert "sign flip over items of the seed-averaged difference" in found.method
    assert statistics.contrast(
        {"a": noisy_items["a"][:1], "b": noisy_items["b"][:1]}, TERMS
    ).method.startswith("bootstrap over items, one seed")


def test_the_predicted_number_of_seeds_brings_the_half_width():
    rng = np.random.default_rng(7)
    predicted = []
    for _ in range(30):
        arms = simulate(rng, 4, 300, item_sd=0.1, seed_sd=0.12)
        seeds = statistics.seeds_to_resolve(arms["a"] - arms["b"], half_width=0.1)
        assert seeds is not None
        assert seeds > 4
        predicted.append(seeds)
    typical = int(np.median(predicted))
    widths = []
    for _ in range(30):
        arms = simulate(rng, typical, 300, item_sd=0.1, seed_sd=0.12)
        low, high = statistics.contrast(arms, TERMS, draws=1000, flips=100).ci95
        widths.append((high - low) / 2)
    assert 0.07 <= np.median(widths) <= 0.13


def test_no_number_of_seeds_makes_up_for_few_items():
    differences = np.repeat([[1.0, -1.0, 0.5, -0.5, 1.0]], 3, axis=0) + np.array([[0.01], [0.0], [-0.01]])
    assert statistics.seeds_to_resolve(differences, half_width=0.2) is None
    assert statistics.seeds_to_resolve(differences, half_width=2.0) is not None
    assert statistics.seeds_to_resolve(differences[:1], half_width=2.0) is None
    assert statistics.seeds_to_resolve(differences, half_width=0.0) is None


@pytest.mark.parametrize(
    ("scores", "terms", "named"),
    [
        ({"a": np.ones((2, 3))}, {}, "no terms"),
        ({"a": np.ones((2, 3))}, {"b": 1}, "arm 'b' has no scores"),
        ({"a": np.ones((2, 3)), "b": np.ones((3, 3))}, TERMS, "differ in"),
        ({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, TERMS, "differ in"),
        ({"a": np.ones(3)}, {"a": 1}, "shape"),
        ({"a": np.ones((2, 0))}, {"a": 1}, "shape"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(scores, terms, named):
    with pytest.raises(InputError, match=named):
        statistics.contrast(scores, terms)
