"""Intervals and p-values: coverage by simulation, agreement with formulas, ranges, pairing, missing answers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks import coverage
from msm_jax.analysis import dependence, intervals, power, statistics
from msm_jax.analysis.intervals import Range, Spread
from msm_jax.errors import InputError

TERMS = {"a": 1, "b": -1}
FEW = {
    "items": coverage.independent(4),
    "seeds": coverage.independent(3, 0.11),
    "two seeds": coverage.independent(2),
    "clusters": coverage.clustered(4, 0.1),
    "strong clusters": coverage.clustered(3, 0.3),
    "pairs": coverage.sharing(4, 16),
    "near 1": coverage.share(3, 0.98, 0.1),
}


@pytest.mark.parametrize("name", FEW)
def test_intervals_cover_the_truth_about_as_often_as_they_say(name):
    trials = 400
    covered, _ = FEW[name].covered(trials)
    error = math.sqrt(0.95 * 0.05 / trials)
    assert covered >= 0.95 - 2.5 * error
    assert covered <= 0.97 + 2.5 * error or name in ("two seeds", "near 1")


def test_items_of_a_cluster_taken_as_independent_would_cover_too_rarely():
    cell = coverage.clustered(4, 0.3)
    assert coverage.dataclasses.replace(cell, labels=()).covered(200)[0] < 0.85


def scores(rng, seeds, items):
    return {arm: (rng.random((seeds, items)) < 0.5).astype(float) for arm in "ab"}


def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(1)
    sides = set()
    for seeds, items, measure in itertools.product((1, 2, 3, 6), (5, 40), ("share", "nats")):
        for shift in np.linspace(0, 0.6, 9):
            arms = scores(rng, seeds, items)
            arms["a"] = np.where(rng.random((seeds, items)) < shift, 1.0, arms["a"])
            found = statistics.contrast(arms, TERMS, measure=measure)
            outside = not found.ci95[0] <= 0 <= found.ci95[1]
            assert (found.p_value < 0.05) == outside
            sides.add(outside)
    assert sides == {True, False}


@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
@settings(max_examples=80, deadline=None)
def test_intervals_of_shares_hold_the_estimate_and_stay_within_what_is_possible(seeds, items, seed, level):
    rng = np.random.default_rng(seed)
    arms = {arm: (rng.random((seeds, items)) < p).astype(float) for arm, p in (("a", level), ("b", 0.5))}
    for terms, low, high in (({"a": 1}, 0, 1), (TERMS, -1, 1), ({"a": 1, "b": -0.5}, -0.5, 1)):
        found = statistics.contrast(arms, terms)
        assert low <= found.ci95[0] <= found.diff + 1e-9
        assert found.diff - 1e-9 <= found.ci95[1] <= high


def test_two_seeds_far_apart_give_a_wide_interval_that_is_possible():
    arms = {"a": np.repeat([[0.9], [0.35]], 40, axis=1), "b": np.full((2, 40), 0.5)}
    found = statistics.contrast(arms, TERMS)
    assert found.diff == pytest.approx(0.125)
    assert -1 < found.ci95[0] < -0.8
    assert 0.8 < found.ci95[1] < 1


def test_nothing_but_right_answers_leaves_room_for_some_wrong_ones():
    found = statistics.interval95(np.ones((3, 100)))
    assert found.high == pytest.approx(1)
    assert 0.95 < found.low < 0.99
    same = statistics.contrast({"a": np.ones((3, 100)), "b": np.ones((3, 100))}, TERMS)
    assert same.ci95[0] < 0 < same.ci95[1]
    smooth = statistics.contrast({"a": np.full((3, 100), 0.6), "b": np.full((3, 100), 0.5)}, TERMS)
    assert smooth.ci95 == (pytest.approx(0.1), pytest.approx(0.1)), "probabilities say themselves how far they vary"


def test_with_one_seed_and_independent_items_it_is_the_t_interval():
    values = np.random.default_rng(2).normal(size=(1, 30))
    half = stats.t.ppf(0.975, 29) * stats.sem(values[0])
    found = statistics.contrast({"a": values}, {"a": 1}, measure="nats")
    assert found.ci95 == (pytest.approx(values.mean() - half), pytest.approx(values.mean() + half))
    assert found.p_value == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue, rel=1e-4)


def test_with_items_that_do_not_differ_it_is_the_t_interval_over_seeds():
    arms = {"a": np.repeat([[0.2], [0.5], [0.8]], 50, axis=1)}
    half = stats.t.ppf(0.975, 2) * 0.3 / math.sqrt(3)
    found = statistics.contrast(arms, {"a": 1}, measure="nats")
    assert found.ci95 == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert found.method.startswith("t interval over 3 seeds and 50 items")


def test_one_share_of_independent_items_has_wilsons_interval():
    values = np.array([[1.0] * 30 + [0.0] * 20])
    found = statistics.interval95(values)
    exact = stats.binomtest(30, 50).proportion_ci(method="wilson")
    assert (found.low, found.high) == (pytest.approx(exact.low, abs=0.006), pytest.approx(exact.high, abs=0.006))


def test_clusters_of_equal_size_have_the_variance_of_their_means():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(1, 60)) + np.repeat(rng.normal(size=6), 10)
    among = dependence.of((tuple((f"c{i // 10}",) for i in range(60)),))
    assert (among.correction, among.df, among.labels) == (pytest.approx(6 / 5), pytest.approx(5), 6)
    means = values.reshape(6, 10).mean(axis=1)
    assert intervals.spread([values], among).items == pytest.approx(means.var(ddof=1) / 6)


def test_pairs_that_share_an_option_count_together_whichever_it_is():
    values = np.array([[1.0, 0.0, 0.5, 0.25]])
    labels = (("x", "y"), ("y", "z"), ("z", "w"), ("u", "v"))
    related = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    among = dependence.of((labels,))
    assert among.related is not None
    np.testing.assert_array_equal(among.related.toarray(), related)
    assert among.overlapping
    residuals = values[0] - values.mean()
    plain = residuals @ related @ residuals / 16 * among.correction
    assert intervals.spread([values], among).items == pytest.approx(max(plain, residuals @ residuals / 16))


def test_clusters_are_shared_between_the_evals_of_a_mean():
    rng = np.random.default_rng(4)
    topic = np.repeat(rng.normal(size=5), 4)[None]
    labels = tuple((f"topic {i // 4}",) for i in range(20))
    other = tuple((f"other {i // 4}",) for i in range(20))
    parts = [statistics.Part(topic, labels), statistics.Part(topic, labels)]
    apart = [statistics.Part(topic, labels), statistics.Part(topic, other)]
    together = statistics.estimate(*parts).spread.items
    assert together == pytest.approx(2 * statistics.estimate(*apart).spread.items)


def test_a_label_that_all_items_have_says_nothing_of_others():
    labels = tuple(("cheese", f"option {i % 3}") for i in range(12))
    values = np.random.default_rng(5).normal(size=(1, 12))
    whole, rest = (
        intervals.spread([values], dependence.of((each,))) for each in (labels, tuple(label[1:] for label in labels))
    )
    assert whole == rest


def test_pairing_by_item_narrows_the_interval():
    rng = np.random.default_rng(6)
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
    found = statistics.contrast(arms, terms)
    means = [statistics.summarise(array).mean for array in arms.values()]
    assert found.diff == pytest.approx(np.dot(coefficients, means), abs=1e-12)
    assert found.n_seeds == (seeds if len(coefficients) > 1 else 1)
    assert found.n_items == items
    assert math.isnan(found.p_value) if (found.n_seeds, items) == (1, 1) else 0 < found.p_value <= 1


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


def test_one_item_of_one_seed_has_the_interval_of_all_that_is_possible():
    found = statistics.contrast({"a": np.array([[1.0]]), "b": np.array([[0.0]])}, TERMS)
    assert found.ci95 == (-1, 1)
    assert math.isnan(found.p_value)
    assert found.method.startswith("one item of one seed")


def test_effect_sizes_have_no_unit():
    arms = {"a": np.full((2, 4), 0.9), "b": np.full((2, 4), 0.5)}
    h = 2 * math.asin(math.sqrt(0.9)) - 2 * math.asin(math.sqrt(0.5))
    assert statistics.effect_size(arms, TERMS, "share") == (pytest.approx(h), "h")
    nats = {"a": np.array([[1.0, 2.0, 3.0]]), "b": np.zeros((1, 3))}
    assert statistics.effect_size(nats, TERMS, "nats") == (pytest.approx(2.0), "d")
    assert math.isnan(statistics.effect_size(arms, TERMS, "nats")[0])


def test_p_values_are_corrected_by_holms_method():
    assert statistics.holm([0.01, 0.04, 0.03, math.nan, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True
    )
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


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


def test_the_predicted_number_of_seeds_brings_the_half_width():
    spread = Spread(4, 0.12**2 / 4 + 0.0005, 0.0009, 0.0005, 300, 300)
    seeds = power.seeds_to_resolve(spread, half_width=0.1)
    assert seeds is not None
    halves = [math.sqrt(spread.with_seeds(n).square(0.05)) for n in (seeds, seeds - 1)]
    assert halves[0] <= 0.1 < halves[1]
    again = spread.with_seeds(9).with_seeds(4)
    assert (again.seeds, again.items, again.both) == pytest.approx((spread.seeds, spread.items, spread.both))


def test_no_number_of_seeds_makes_up_for_few_items():
    differences = np.repeat([[1.0, -1.0, 0.5, -0.5, 1.0]], 3, axis=0) + np.array([[0.01], [0.0], [-0.01]])
    spread = statistics.estimate(statistics.Part(differences)).spread
    assert power.seeds_to_resolve(spread, half_width=0.2) is None
    assert power.seeds_to_resolve(spread, half_width=2.0) is not None
    alone = statistics.estimate(statistics.Part(differences[:1])).spread
    assert power.seeds_to_resolve(alone, half_width=2.0) is None
    assert power.seeds_to_resolve(spread, half_width=0.0) is None


def test_the_detectable_difference_is_found_in_four_of_five_repetitions():
    rng, found = np.random.default_rng(7), []
    spread = power.planned(4, 100, 0, (0.05, 0.3, 0.6), icc=0.0)
    effect = power.detectable(spread)
    for _ in range(300):
        values = effect + rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.3, 100) + rng.normal(0, 0.6, (4, 100))
        found.append(statistics.estimate(statistics.Part(values, (), Range()), test=False).ci95[0] > 0)
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)
    assert power.detectable(power.planned(4, 100, 10, (0.05, 0.3, 0.6), icc=0.3)) > effect
    assert power.detectable(spread, tests=27) > 1.1 * effect
    assert math.isnan(power.detectable(Spread(1, 0.0, 0.0, 0.0, 0.0, 1)))


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
