"""The mixture: shares, the order within sources across stages, and counts that agree with the rows drawn."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_jax.data.mixture import Mixture

Stages = list[tuple[int, Mapping[str, float]]]
NAMES = ("a", "b", "c")
WEIGHT = st.one_of(st.just(0.0), st.floats(1e-4, 10.0))
WEIGHTS = st.fixed_dictionaries(dict.fromkeys(NAMES, WEIGHT)).filter(lambda w: sum(w.values()) > 0)


@st.composite
def stages(draw: st.DrawFn) -> Stages:
    starts = [0, *sorted(draw(st.sets(st.integers(1, 6000), max_size=3)))]
    return [(start, draw(WEIGHTS)) for start in starts]


@given(stages(), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=40)
def test_each_source_is_read_in_order_across_stages_and_periods(
    stages: Stages, batch_rows: int, seed: int
) -> None:
    """Step by step from 0, the rows of each source are 0, 1, 2, ...; `drawn` counts them."""
    mixture = Mixture(NAMES, stages, batch_rows, seed)
    seen = np.zeros(len(NAMES), np.int64)
    # The steps around a stage's begin and a period's end; jumps between them are bridged by `drawn`.
    around = {start for start, _ in stages} | {(1 << 14) // batch_rows, (1 << 15) // batch_rows}
    for step in sorted({max(0, s + d) for s in around for d in range(-3, 4)}):
        first = step * batch_rows
        seen = mixture.drawn(first)
        assert seen.sum() == first
        source, index = mixture.select(first, first + batch_rows)
        weights = [w for start, w in stages if start <= step][-1]
        for s, i in zip(source, index, strict=True):
            assert weights[NAMES[s]] > 0
            assert i == seen[s]
            seen[s] += 1
        assert (mixture.drawn(first + batch_rows) == seen).all()


@pytest.mark.parametrize("weights", [(0.7, 0.3, 0.0), (0.006, 0.5, 0.494), (5.0, 3.0, 2.0), (1e-7, 1.0, 1.0)])
def test_every_stretch_has_the_shares_of_the_weights(weights: tuple[float, ...]) -> None:
    mixture = Mixture(NAMES, [(0, dict(zip(NAMES, weights, strict=True)))], 8, 0)
    source, _ = mixture.select(0, 50_000)
    share = np.array(weights) / sum(weights)
    taken = np.cumsum(source[:, None] == np.arange(3), axis=0)
    ahead = taken - share * np.arange(1, len(source) + 1)[:, None]
    # Never more than about a row per source from the exact share, apart from its rounding to 1 in 16384.
    assert np.abs(ahead).max() < 2 + 50_000 / 16_384


def test_seed_shifts_the_choice_and_sources_do_not_depend_on_each_other() -> None:
    def chosen(seed: int) -> list[int]:
        return Mixture(NAMES, [(0, {"a": 1.0, "b": 1.0, "c": 1.0})], 4, seed).select(0, 40)[0].tolist()

    assert chosen(0) == chosen(0)
    assert any(chosen(0) != chosen(seed) for seed in (1, 2))
