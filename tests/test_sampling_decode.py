"""Cached, batched decoding gives what the plain model gives, whatever shares the batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError, WorkError
from msm_jax.models import paged, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.sampling import decode, draw
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine

GREEDY = SamplingConfig(max_new_tokens=12, temperature=0.0)
SHAPES = {
    "grouped": {"num_kv_heads": 2, "qkv_bias": True},
    "qk_norm": {"qk_norm": True, "tie_embeddings": False},
}


def model(vocab_size, **overrides):
    """A small model with every parameter away from its initial value, so that none can be left out unnoticed."""
    fields = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "head_dim": 8, "intermediate_size": 48}
    config = ModelConfig(vocab_size, 32, **{**fields, "max_position_embeddings": 256, **overrides})
    params = transformer.init_params(config, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return config, jax.tree.unflatten(tree, noisy)


@functools.partial(jax.jit, static_argnums=1)
def plain_forward(params, config, tokens, positions, segments):
    hidden = transformer.apply(params, config, tokens, positions, segments)
    return transformer.logits(params, config, hidden)


def plain_logits(params, config, ids):
    """Logits [T, V] of one sequence, by the form of the model that is trained."""
    size = -(-len(ids) // 64) * 64
    tokens = np.zeros((1, size), np.int32)
    tokens[0, : len(ids)] = ids
    slots = np.arange(size, dtype=np.int32)[None]
    return np.asarray(plain_forward(params, config, tokens, slots, (slots < len(ids)).astype(np.int32)))[0, : len(ids)]


@pytest.fixture(scope="module")
def small(tiny_tokenizer):
    config, params = model(tiny_tokenizer.vocab_size)
    return params, Engine(params, config, tiny_tokenizer, ChatTemplate(), slots=4, page=16)


def prompts_of(vocab_size, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(4, vocab_size, n - 1).tolist()] for n in lengths]


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_layers_equal_the_full_model(shape):
    config, params = model(50, **SHAPES[shape])
    unstacked = transformer.unstack(params, config)
    ids = np.random.default_rng(0).integers(0, 50, (3, 9))
    caches = paged.init(config, 10, 4, 3)
    tables = np.array([[3, 9, 1], [2, 5, 7], [4, 6, 8]], np.int32)
    first, caches = transformer.run_layers(
        unstacked, config, ids[:, :4], np.tile(np.arange(4), (3, 1)), paged.Paged(tables), caches
    )
    steps = [first]
    caches = decode.place(caches, np.arange(3), tables[:, : paged.NEAR])
    order = np.array([2, 0, 1])
    for t in range(4, 9):
        now = np.s_[:, t : t + 1]
        hidden, caches = transformer.run_layers(
            unstacked, config, ids[now], np.full((3, 1), t), paged.Paged(tables, order), caches
        )
        steps.append(hidden)
    logits = transformer.logits(params, config, jnp.concatenate(steps, axis=1))
    for row in range(3):
        np.testing.assert_allclose(logits[row], plain_logits(params, config, ids[row]), atol=2e-5)


def test_greedy_replies_equal_full_recompute(small):
    params, engine = small
    prompts = prompts_of(engine.config.vocab_size, [1, 5, 31, 33, 40])
    for prompt, reply in zip(prompts, engine.generate(prompts, GREEDY), strict=True):
        logits = plain_logits(params, engine.config, [*prompt, *reply.ids])
        for t, token in enumerate(reply.ids, len(prompt) - 1):
            assert logits[t, token] >= logits[t].max() - 1e-4
        stopped = reply.ids[-1] in engine.stop_ids
        assert reply.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(reply.ids) == GREEDY.max_new_tokens


def test_a_reply_does_not_depend_on_its_batch(small):
    _, engine = small
    prompts = prompts_of(engine.config.vocab_size, [3, 17, 30, 9, 28])
    settings_ = SamplingConfig(max_new_tokens=10, temperature=0.8, top_k=50, top_p=0.9)
    seeds = [7, 7, 3, 0, 12]
    together = engine.generate(prompts, settings_, seeds)
    assert together == engine.generate(prompts, settings_, seeds), "same seeds, same replies"
    alone = [engine.generate([p], settings_, [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert together == alone
    back = engine.generate(prompts[::-1], settings_, seeds[::-1])
    assert together == back[::-1]
    assert together != engine.generate(prompts, settings_, [s + 1 for s in seeds])


def test_default_seeds_count_up(small):
    _, engine = small
    prompt = prompts_of(engine.config.vocab_size, [6])[0]
    drawing = SamplingConfig(max_new_tokens=8, seed=5)
    three = engine.generate([prompt] * 3, drawing)
    assert len({reply.ids for reply in three}) == 3
    assert three == engine.generate([prompt] * 3, drawing, [5, 6, 7])


def reference_kept(logits, top_k, top_p):
    """The tokens kept, by sorting in float64."""
    order = np.argsort(-logits, kind="stable")
    if top_k:
        order = order[:top_k]
    mass = np.exp(logits[order] - logits.max())
    before = np.cumsum(mass / mass.sum()) - mass / mass.sum()
    return set(order[before < top_p].tolist())


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    top_k=st.integers(0, 45),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.99)),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_top_k_and_top_p_keep_what_sorting_keeps(seed, top_k, top_p, scale):
    logits = (scale * np.random.default_rng(seed).permutation(np.linspace(-2, 2, 40))).astype(np.float32)
    got = np.asarray(draw.kept(jnp.asarray(logits)[None], jnp.asarray([top_k]), jnp.asarray([top_p])))[0]
    want = reference_kept(logits.astype(np.float64), top_k, top_p)
    nearby = reference_kept(logits.astype(np.float64), top_k, top_p * (1 + 1e-5)) ^ reference_kept(
        logits.astype(np.float64), top_k, top_p * (1 - 1e-5)
    )
    assert (set(np.flatnonzero(got).tolist()) ^ want) <= nearby


def test_ties_are_kept_together():
    logits = jnp.asarray([[1.0, 3.0, 3.0, -0.0, 0.0]])
    everything = jnp.ones(1)
    assert draw.kept(logits, jnp.asarray([1]), everything).tolist() == [[False, True, True, False, False]]
    assert draw.kept(logits, jnp.asarray([4]), everything).tolist() == [[True] * 5]


def test_each_row_draws_by_its_own_settings():
    logits = jax.random.normal(jax.random.key(0), (6, 40))
    every = draw.Drawing(
        jnp.arange(6), jnp.asarray([0, 1.0, 0.7, 1.0, 0, 2.0]), jnp.asarray([0, 0, 5, 0, 3, 0]),
        jnp.asarray([1, 1, 1, 0.5, 1, 1.0]),
    )
    positions = jnp.arange(6) + 10
    together = draw.next_token(logits, positions, every)
    alone = [
        draw.next_token(logits[i : i + 1], positions[i : i + 1], jax.tree.map(lambda x, i=i: x[i : i + 1], every))
        for i in range(6)
    ]
    assert together.tolist() == [int(token[0]) for token in alone]
    assert together[0] == logits[0].argmax() and together[4] == logits[4].argmax()


def test_draws_have_the_distribution_of_the_logits():
    rows = 4000
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.15, 0.05]))

    def draws(temperature, top_k):
        settings_ = (jnp.full(rows, temperature), jnp.full(rows, top_k), jnp.ones(rows))
        return draw.next_token(
            jnp.tile(logits, (rows, 1)), jnp.full(rows, 3), draw.Drawing(jnp.arange(rows), *settings_)
        )

    token = draws(1.0, 0)
    np.testing.assert_allclose(np.bincount(token, minlength=4) / rows, [0.5, 0.3, 0.15, 0.05], atol=0.03)
    token = draws(1.0, 2)
    np.testing.assert_allclose(np.bincount(token, minlength=4) / rows, [0.625, 0.375, 0, 0], atol=0.03)
    cold = draws(0.5, 0)
    squared = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(np.bincount(cold, minlength=4) / rows, squared / squared.sum(), atol=0.03)


def replaying(engine, ids, monkeypatch):
    """Makes the engine's model draw exactly `ids`, whatever the prompt."""
    config = engine.config
    sequence = jnp.asarray([*ids, *[4] * 200], jnp.int32)

    def scripted(logits, positions, drawing):
        return sequence[positions - drawing.seeds_B]  # the seed says where the reply begins

    monkeypatch.setattr(draw, "next_token", scripted)
    decode.decode.clear_cache()
    return config


@pytest.fixture
def scripted(small, monkeypatch):
    """generate(prompt text, reply text or ids, settings): the reply as the engine cuts it."""
    _, engine = small
    yield lambda prompt, ids, sampling: (
        replaying(engine, ids, monkeypatch),
        engine.generate([prompt], sampling, [len(prompt)])[0],
    )[1]
    monkeypatch.undo()
    decode.decode.clear_cache()


def test_a_stop_string_across_tokens_ends_the_reply(small, scripted):
    _, engine = small
    tokenizer = engine.tokenizer
    prompt = engine.text_prompt("Ada likes")
    ids = tokenizer.encode("the old lamp in 1950. Bruno sells")
    text = tokenizer.decode(ids, continues=True)
    for stop in ("amp in", "50. B", " Bru", "the"):
        reply = scripted(prompt, ids, SamplingConfig(max_new_tokens=60, stop=("zzz", stop)))
        assert reply.text == text[: text.index(stop)]
        assert reply.finish_reason == "stop"
        assert stop in tokenizer.decode(reply.ids, continues=True)
        assert stop not in tokenizer.decode(reply.ids[:-1], continues=True)


def test_stop_ids_end_the_reply_and_length_is_told(small, scripted):
    _, engine = small
    tokenizer = engine.tokenizer
    ids = tokenizer.encode("the old lamp")
    for stop_id in engine.stop_ids:
        reply = scripted(engine.text_prompt("a"), [*ids, stop_id], SamplingConfig(max_new_tokens=60))
        assert (reply.text, reply.finish_reason, reply.ids) == (" the old lamp", "stop", (*ids, stop_id))
    exact = scripted(engine.text_prompt("a"), ids, SamplingConfig(max_new_tokens=len(ids)))
    assert (exact.text, exact.finish_reason) == (" the old lamp", "length")
    one = scripted(engine.text_prompt("a"), ids, SamplingConfig(max_new_tokens=1))
    assert one.ids == tuple(ids[:1])
    chat = scripted(engine.chat_prompt([{"role": "user", "content": "a"}]), ids, GREEDY)
    assert chat.text.startswith("the old lamp"), "a reply after a marker begins without a space"


def test_a_reply_ends_at_its_length_in_any_chunk(small):
    _, engine = small
    prompt = prompts_of(engine.config.vocab_size, [6])[0]
    lengths = [15, 16, 17, 18, 33, 40]
    no_stop = [engine.generate([prompt], SamplingConfig(max_new_tokens=n, seed=2))[0] for n in lengths]
    never = [
        engine.generate([prompt], SamplingConfig(max_new_tokens=n, seed=2, stop=("\0",)))[0] for n in lengths
    ]
    assert no_stop == never
    for n, reply in zip(lengths, no_stop, strict=True):
        assert reply.ids == no_stop[-1].ids[:n]


def test_ids_that_the_tokenizer_lacks_are_never_drawn(small):
    """Checkpoints pad their vocabulary; what their tokenizer cannot read must not come out."""
    _, engine = small
    config, params = model(engine.tokenizer.vocab_size + 200)
    padded = Engine(params, config, engine.tokenizer, ChatTemplate())
    hot = SamplingConfig(max_new_tokens=32, temperature=5.0)
    for reply in padded.generate([[1]] * 4, hot):
        assert max(reply.ids) < engine.tokenizer.vocab_size


def test_a_chat_turn_is_its_prompt_and_its_closed_reply(small):
    _, engine = small
    chat = [
        {"role": "system", "content": "You are Ada."},
        {"role": "user", "content": "kite?"},
        {"role": "assistant", "content": "old kite"},
        {"role": "user", "content": "lamp?"},
    ]
    for messages in (chat, chat[1:2]):
        prompt, reply = engine.chat_turn(messages, "the lamp")
        assert prompt == engine.chat_prompt(messages)
        assert engine.tokenizer.decode(reply) == "the lamp"
        assert reply[-1] in engine.stop_ids


def test_what_cannot_be_generated_is_refused(small):
    params, engine = small
    with pytest.raises(InputError, match=r"250 tokens .* 256 positions"):
        engine.generate([[1] * 250], GREEDY)
    with pytest.raises(InputError, match="does not match the model"):
        Engine(params, dataclasses.replace(engine.config, vocab_size=9), engine.tokenizer, ChatTemplate())
    bad = {"max_new_tokens": 0, "temperature": -1.0, "top_k": -1, "top_p": 0.0, "stop": ("",), "seed": -1}
    for field, value in bad.items():
        with pytest.raises(InputError, match=field):
            SamplingConfig(**{field: value})


def test_weights_that_are_not_numbers_are_a_failure(small):
    params, engine = small
    broken = {**params, "final_norm": params["final_norm"] * jnp.nan}
    bad = Engine(broken, engine.config, engine.tokenizer, ChatTemplate())
    with pytest.raises(WorkError, match="not finite"):
        bad.score([[1, 5]], [[6]])
