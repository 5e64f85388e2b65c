"""Log-probabilities of continuations equal those of each sequence run alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sampling_decode import model, plain_logits

from msm_jax.errors import InputError
from msm_jax.models import transformer
from msm_jax.sampling import scoring, shapes

VOCAB = 50
PROMPTS = st.sampled_from([(1, 2), (1, 3, 4), (5,) * 30])
CONTINUATIONS = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def small():
    config, params = model(VOCAB, num_kv_heads=2)
    return config, params, transformer.unstack(params, config)


def brute_force(params, config, prompt, continuation):
    """The sum by one plain forward pass, in float64 from the logits on."""
    logits = plain_logits(params, config, [*prompt, *continuation]).astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    at = np.arange(len(continuation)) + len(prompt) - 1
    return log_probs[at, continuation].sum()


def score(unstacked, config, prompts, continuations):
    """All scores in order, as the engine collects them from the batches."""
    sums = {}
    for batch in scoring.batches(prompts, continuations, config.max_position_embeddings):
        sums |= scoring.score_batch(unstacked, config, batch, config.vocab_size, [])
    return np.array([sums[i] for i in range(len(prompts))])


def test_scores_equal_brute_force(small):
    config, params, unstacked = small
    rng = np.random.default_rng(0)

    def draw(n):
        return rng.integers(0, VOCAB, n).tolist()

    shared = [draw(20), draw(7), draw(1), draw(100)]
    prompts = [shared[i] for i in (0, 1, 2, 3, 0, 1, 2, 3, 0)] + [draw(90)]
    continuations = [draw(n) for n in (1, 3, 5, 40, 2, 1, 8, 60, 1, 110)]
    got = score(unstacked, config, prompts, continuations)
    want = [brute_force(params, config, p, c) for p, c in zip(prompts, continuations, strict=True)]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-4)


def test_blocks_of_logits_change_nothing(small, monkeypatch):
    config, _, unstacked = small
    prompts, continuations = [[1, 2, 3], [4, 5]], [[6, 7], [8, 9, 10]]
    whole = score(unstacked, config, prompts, continuations)
    monkeypatch.setattr(scoring, "_MAX_LOGITS", 7 * VOCAB)
    jax.clear_caches()
    np.testing.assert_allclose(score(unstacked, config, prompts, continuations), whole, rtol=1e-6)


def test_order_and_company_do_not_matter(small):
    config, _, unstacked = small
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, VOCAB, n).tolist() for n in rng.integers(1, 40, 60)]
    continuations = [rng.integers(0, VOCAB, n).tolist() for n in rng.integers(1, 9, 60)]
    together = score(unstacked, config, prompts, continuations)
    back = score(unstacked, config, prompts[::-1], continuations[::-1])
    np.testing.assert_allclose(together, back[::-1], rtol=1e-5)
    few = score(unstacked, config, prompts[:3], continuations[:3])
    np.testing.assert_allclose(together[:3], few, rtol=1e-5)


def test_nothing_to_score_gives_nothing(small):
    config, _, unstacked = small
    assert score(unstacked, config, [], []).shape == (0,)


def test_a_sequence_beyond_the_positions_is_refused(small):
    config, _, unstacked = small
    with pytest.raises(InputError, match=r"200 tokens .* 60 .* 256 positions"):
        score(unstacked, config, [[1] * 200], [[1] * 60])


@settings(max_examples=50)
@given(st.lists(st.tuples(PROMPTS, CONTINUATIONS), min_size=1, max_size=60))
def test_packing_keeps_each_request_once_and_apart(requests):
    prompts = [list(p) for p, _ in requests]
    continuations = [c for _, c in requests]
    seen = [[] for _ in requests]
    for batch in scoring.batches(prompts, continuations, 256):
        mask = np.asarray(scoring.branch_mask(jnp.asarray(batch.groups_RT), jnp.asarray(batch.branches_RT)))
        length = batch.tokens_RT.shape[1]
        for slot, target, owner in zip(batch.slots, batch.targets, batch.owners, strict=True):
            row, column = divmod(slot, length)
            visible = np.flatnonzero(mask[row, column])
            context = batch.tokens_RT[row, visible].tolist()
            assert context == prompts[owner] + continuations[owner][: len(seen[owner])]
            assert batch.positions_RT[row, visible].tolist() == list(range(len(context)))
            seen[owner].append(target)
    assert seen == continuations


@given(st.integers(1, 5000))
def test_buckets_are_few_and_near(n):
    assert n <= shapes.bucket(n) < max(2 * n, 33)
    assert n <= shapes.rows(n, 5000) < 2 * n
    assert shapes.bucket(shapes.bucket(n)) == shapes.bucket(n)
