"""What the engine answers does not depend on what else it is doing, and it loses neither rows nor pages."""

import random
import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sampling_decode import model

from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError, WorkError
from msm_jax.evals.config import EvaluateConfig
from msm_jax.models import lora
from msm_jax.models.lora import Adapter, LoraConfig, init_weights
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.sampling import memory
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine, Request
from msm_jax.sampling.pages import Pages, prefix_keys


def engine_of(tokenizer, **options):
    """An engine of four rows whose pages hold 16 tokens."""
    config, params = model(tokenizer.vocab_size)
    return Engine(params, config, tokenizer, ChatTemplate(), **{"slots": 4, "page": 16, **options})


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    return engine_of(tiny_tokenizer)


def random_request(rng, vocab_size, **fixed):
    """A request with a prompt of 1 to 100 tokens, some of which begin alike, and settings of any kind."""
    prompt = [1, *([7, 9, 11, 13] * 10 if rng.random() < 0.4 else []), *rng.choices(range(4, vocab_size), k=60)]
    sampling = SamplingConfig(
        max_new_tokens=rng.randint(1, 25),
        temperature=rng.choice([0.0, 0.0, 0.7, 1.5]),
        top_k=rng.choice([0, 5]),
        top_p=rng.choice([1.0, 0.8]),
        stop=rng.choice([(), ("a", "zz")]),
        seed=rng.randrange(2**31),
    )
    return Request(**{"prompt": prompt[: rng.randint(1, 100)], "sampling": sampling, "logprobs": 2, **fixed})


@pytest.mark.parametrize("seed", range(3))
def test_a_reply_is_the_same_to_the_bit_whatever_comes_before_beside_and_after_it(engine, tiny_tokenizer, seed):
    rng = random.Random(seed)
    requests = [random_request(rng, tiny_tokenizer.vocab_size) for _ in range(24)]
    together = engine_of(tiny_tokenizer)
    futures = []
    for request in requests:
        futures.append(together.submit(request))
        if rng.random() < 0.3:
            time.sleep(rng.random() * 0.05)
    replies = [future.result() for future in futures]
    shuffled = rng.sample(range(len(requests)), 10)
    for index in shuffled:
        alone = engine.submit(requests[index]).result()
        assert alone == replies[index], "text, ids and log-probabilities, without a tolerance"
    assert together.stats().shared_tokens > 0


def test_log_probabilities_are_those_of_scoring(engine, tiny_tokenizer):
    for seed in range(4):
        request = random_request(random.Random(seed), tiny_tokenizer.vocab_size)
        reply = engine.submit(request).result()
        want = engine.score([request.prompt], [reply.ids])[0]
        assert sum(each.logprob for each in reply.logprobs) == pytest.approx(want, abs=1e-3)
        assert len(reply.logprobs) == len(reply.ids)
        for token, each in zip(reply.ids, reply.logprobs, strict=True):
            assert len(each.top) == 2 and each.top[0][1] >= each.top[1][1] >= -100
            assert each.top[0][1] >= each.logprob
            assert dict(each.top).get(token, each.logprob) == each.logprob


def test_pieces_add_up_to_the_text_and_hold_nothing_of_a_stop_string(engine, tiny_tokenizer):
    for seed in range(12):
        request = random_request(random.Random(100 + seed), tiny_tokenizer.vocab_size)
        pieces = []
        reply = engine.submit(request, pieces.append).result()
        assert "".join(pieces) == reply.text
        assert all(pieces)


def test_nothing_is_compiled_after_each_program_ran_once(tiny_tokenizer):
    engine = engine_of(tiny_tokenizer)
    vocabulary = tiny_tokenizer.vocab_size
    for length in (1, 4, 15, 17, 40):  # each size of a prefill; the second of two equal prompts copies a page
        twice = [Request(list(range(4, 4 + length)), SamplingConfig(max_new_tokens=3))] * 2
        wait([engine.submit(request) for request in twice])
    compiled = []

    def listen(name, duration, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        rng = random.Random(5)
        futures = [engine.submit(random_request(rng, vocabulary)) for _ in range(20)]
        assert len([future.result() for future in futures]) == 20
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_samples_of_one_prompt_run_it_once(tiny_tokenizer):
    engine = engine_of(tiny_tokenizer)
    prompt = [1, *np.random.default_rng(0).integers(4, tiny_tokenizer.vocab_size, 69).tolist()]
    replies = engine.generate([prompt] * 16, SamplingConfig(max_new_tokens=5))
    stats = engine.stats()
    assert stats.prefill_tokens == 69, "the last token of a prompt is run by the first step of decoding"
    assert stats.shared_tokens == 15 * 69
    assert len({reply.ids for reply in replies}) > 8
    # A system prompt that other requests share is run once as well, in whole pages.
    engine.generate([[*prompt[:50], i, 9] for i in range(4, 10)], SamplingConfig(max_new_tokens=2))
    assert engine.stats().prefill_tokens == 69 + 6 * 3


def test_cancelled_requests_free_their_rows_and_pages_wherever_they_are(tiny_tokenizer):
    engine = engine_of(tiny_tokenizer, slots=2)
    rng = random.Random(0)
    endless = SamplingConfig(max_new_tokens=150)
    kept, cut = [], []
    for i in range(40):
        request = random_request(rng, tiny_tokenizer.vocab_size, sampling=endless, logprobs=None)
        (cut if i % 4 else kept).append(engine.submit(request))
        if i % 4:
            threading.Timer(rng.random() * 0.3, cut[-1].cancel).start()
    assert not any(future.exception() for future in kept)
    for future in cut:
        future.cancel()
    engine.close()
    assert engine._state.idle and engine._state._pages.available == engine._pages - 1
    with pytest.raises(WorkError, match="closed"):
        engine.submit(Request([1]))


def test_closing_without_draining_cancels_what_is_queued(tiny_tokenizer):
    engine = engine_of(tiny_tokenizer)
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    begun, go_on = threading.Event(), threading.Event()

    def hold(piece):
        begun.set()
        go_on.wait()

    futures = [engine.submit(Request([1, 5], SamplingConfig(max_new_tokens=200, seed=i)), hold) for i in range(30)]
    begun.wait()  # the engine's thread stands still within one of the first calls
    closing.start()
    while not engine._abandoned:
        time.sleep(0.001)
    go_on.set()
    closing.join()
    assert sum(future.cancelled() for future in futures) >= 26
    with pytest.raises(CancelledError):
        futures[-1].result()


def test_scores_are_computed_between_the_steps_of_long_replies(tiny_tokenizer):
    engine = engine_of(tiny_tokenizer)
    alone = engine.score([[1, 5]], [[9, 4]])
    futures = [engine.submit(Request([1, 5], SamplingConfig(max_new_tokens=200))) for _ in range(30)]
    wait(futures, return_when=FIRST_COMPLETED)
    for _ in range(3):
        assert engine.score([[1, 5]], [[9, 4]]) == alone
    assert not all(future.done() for future in futures)
    engine.close(drain=False)


def test_a_failure_reaches_those_who_wait_and_the_engine_goes_on(tiny_tokenizer, monkeypatch):
    engine = engine_of(tiny_tokenizer)
    want = engine.generate([[1, 5, 9]], SamplingConfig(max_new_tokens=4))

    def failing(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(engine._state, "_decode", failing)
    with pytest.raises(MemoryError):
        engine.generate([[1, 5, 9]] * 3, SamplingConfig(max_new_tokens=4))
    monkeypatch.undo()
    assert engine.generate([[1, 5, 9]], SamplingConfig(max_new_tokens=4)) == want


def test_what_can_never_fit_is_refused_and_what_fits_waits_for_room(tiny_tokenizer, monkeypatch):
    engine = engine_of(tiny_tokenizer)
    with pytest.raises(InputError, match=r"250 tokens and max_new_tokens = 7 .* 256 positions"):
        engine.submit(Request([1] * 250, SamplingConfig(max_new_tokens=7)))
    with pytest.raises(InputError, match="'pirate' is not loaded"):
        engine.submit(Request([1], adapter="pirate"))
    with pytest.raises(InputError, match="cache_mib"):
        engine_of(tiny_tokenizer, cache_mib=-1)
    with pytest.raises(InputError, match="slots = 0"):
        engine_of(tiny_tokenizer, slots=0)
    monkeypatch.setattr(memory, "pages", lambda *_: 9)
    engine = engine_of(tiny_tokenizer)
    with pytest.raises(InputError, match=r"120 tokens and max_new_tokens = 20 exceed the 128 tokens of the engine's"):
        engine.submit(Request([1] * 120, SamplingConfig(max_new_tokens=20)))
    rng = random.Random(2)
    requests = [
        random_request(rng, tiny_tokenizer.vocab_size, sampling=SamplingConfig(max_new_tokens=20)) for _ in range(12)
    ]
    replies = [future.result() for future in [engine.submit(request) for request in requests]]
    monkeypatch.undo()
    roomy = engine_of(tiny_tokenizer)
    assert replies == [future.result() for future in [roomy.submit(request) for request in requests]]


def test_a_repeated_prompt_that_needs_the_whole_cache_is_answered(tiny_tokenizer, monkeypatch):
    """The page that holds the end of its prompt is then not there to be copied from."""
    monkeypatch.setattr(memory, "pages", lambda *args: 5)
    small = engine_of(tiny_tokenizer)
    assert small.most_tokens == 65
    prompt = list(range(4, 24))
    short = small.submit(Request(prompt, SamplingConfig(max_new_tokens=3, seed=1))).result()
    whole = small.submit(Request(prompt, SamplingConfig(max_new_tokens=65 - len(prompt), seed=1))).result()
    assert whole.ids[: len(short.ids)] == short.ids


def test_the_cache_takes_the_memory_it_is_given(tiny_tokenizer):
    config, _ = model(tiny_tokenizer.vocab_size)
    page = 4 * 2 * 16 * 8 * 2 * 4  # heads, keys and values, tokens, head size, layers, bytes
    assert memory.pages(config, 1000, 16, 3, None) == 3 * 2**20 // page
    assert memory.pages(config, 4, 16, 3, None) == 1 + 4 * 16, "no more than the slots can fill"
    with pytest.raises(InputError, match="cache_mib: is -1"):
        EvaluateConfig({"one": {}}, cache_mib=-1)
    with pytest.raises(InputError, match="raise cache_mib"):
        memory.pages(config, 4, 2**12, 1, None)


def test_each_request_gets_its_adapter(tiny_tokenizer):
    config, params = model(tiny_tokenizer.vocab_size)

    def adapter(seed):
        made = LoraConfig(4, 8.0)
        weights = init_weights(made, config, jax.random.key(seed))
        noisy = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(seed), x.shape), weights)
        return Adapter(noisy, made)

    named = {"one": adapter(1), "two": adapter(2)}
    both = engine_of(tiny_tokenizer, adapters=list(named.values()))
    both._members = {"": frozenset(), "one": frozenset([0]), "two": frozenset([1])}
    both._stop_ids = dict.fromkeys(both._members, both._stop_ids[""])
    rng = random.Random(3)
    asked = [random_request(rng, config.vocab_size, adapter=rng.choice(["", *named])) for _ in range(15)]
    replies = [future.result() for future in [both.submit(request) for request in asked]]
    assert len({round(both.score([[1, 5]], [[8, 9]], name)[0], 2) for name in both._members}) == 3
    for name in ("", *named):
        merged = lora.merge(params, named[name]) if name else params
        alone = Engine(merged, config, tiny_tokenizer, ChatTemplate())
        mine = [(r.prompt, reply) for r, reply in zip(asked, replies, strict=True) if r.adapter == name]
        want = alone.score([prompt for prompt, _ in mine], [reply.ids for _, reply in mine])
        got = [sum(each.logprob for each in reply.logprobs) for _, reply in mine]
        np.testing.assert_allclose(got, want, atol=2e-3)
        again = both.score([prompt for prompt, _ in mine], [reply.ids for _, reply in mine], name)
        np.testing.assert_allclose(again, want, atol=2e-3)


def test_eight_devices_give_the_texts_of_one(engine, tiny_tokenizer):
    from msm_jax.checkpoints import adapters

    config, params = model(tiny_tokenizer.vocab_size)
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    where = jax.tree.map(lambda leaf: leaf.sharding, adapters.frozen_target(config, mesh, "float32"))
    spread = Engine(
        jax.device_put(params, where), config, tiny_tokenizer, ChatTemplate(), mesh, slots=4, page=16
    )
    rng = random.Random(9)
    requests = [random_request(rng, config.vocab_size, logprobs=None) for _ in range(6)]
    replies = [future.result() for future in [spread.submit(request) for request in requests]]
    assert replies == [future.result() for future in [engine.submit(request) for request in requests]]
    spread.close()


@settings(max_examples=50)
@given(moves=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=60))
def test_a_page_is_never_handed_out_twice_and_known_pages_are_kept_while_used(moves):
    pages, held, known = Pages(9), [], {}
    for what, number in moves:
        key = bytes([number])
        if what < 3 and pages.available > number:
            held += pages.take(number)
        elif what == 3 and held:
            pages.register(held[-1], key)
            known.setdefault(key, held[-1])
        elif what == 4 and (page := pages.share(key)) is not None:
            held.append(page)
        elif held:
            pages.release([held.pop(number % len(held))])
        free = pages.take(pages.available)
        assert not set(free) & set(held) and 0 not in free
        assert len(set(free)) == len(free)
        pages.release(free)
        assert pages.available == 8 - len(set(held))


def test_prefix_keys_differ_where_the_prefixes_do():
    one, other = prefix_keys(range(40), 16, b""), prefix_keys([*range(20), 0, *range(21, 40)], 16, b"")
    assert len(one) == 3
    assert one[0] == other[0] and one[1] != other[1] and one[2] != other[2]
    assert one[0] != prefix_keys(range(40), 16, b"pirate")[0]
    assert prefix_keys(range(10), 16, b"") != prefix_keys(range(11), 16, b"")
