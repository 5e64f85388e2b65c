"""A checkpoint as a model of the protocol: concurrent calls get what the engine gives."""

import asyncio
import threading

import pytest
from test_sampling_decode import model

from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError
from msm_jax.sampling import engine as engines
from msm_jax.sampling.checkpoint_model import CheckpointModel, split
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine
from msm_jax.sampling.model import GenerateConfig, Usage

QUESTIONS = ["lamp?", "Which kite?", "Ada likes what?", "old?"]


def chat(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    config, params = model(tiny_tokenizer.vocab_size)
    return Engine(params, config, tiny_tokenizer, ChatTemplate())


class Recording:
    """An engine that notes what it is asked to score, and from which thread."""

    def __init__(self, engine):
        self._engine, self.calls, self.threads = engine, [], set()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def scores(self, prompts, continuations):
        self.calls.append((prompts, continuations))
        for piece in self._engine.scores(prompts, continuations):
            self.threads.add(threading.current_thread())
            yield piece


def together(calls):
    async def gathered():
        return await asyncio.gather(*calls)

    return asyncio.run(gathered())


def test_hundreds_of_concurrent_calls_decode_side_by_side(engine):
    asked = CheckpointModel(engine, "tiny")
    texts = [f"{question} {i}" for i in range(75) for question in QUESTIONS]
    greedy = GenerateConfig(max_tokens=2, temperature=0.0)
    before = engine.stats()

    async def crowd():
        with engines._devices():  # nothing is computed until all have asked
            calls = [asyncio.create_task(asked.generate(chat(text), greedy)) for text in texts]
            await asyncio.sleep(0)
        return await asyncio.gather(*calls)

    outputs = asyncio.run(crowd())
    steps = engine.stats().steps - before.steps
    prompts = [engine.chat_prompt(chat(text)) for text in texts]
    want = engine.generate(prompts, SamplingConfig(max_new_tokens=2, temperature=0.0))
    assert [output.completion for output in outputs] == [reply.text for reply in want]
    assert [output.usage for output in outputs] == [
        Usage(len(prompt), len(reply.ids)) for prompt, reply in zip(prompts, want, strict=True)
    ]
    assert steps < 2 * 300 * 2 / engine.slots


def test_scores_are_those_of_one_call_in_the_order_of_the_calls(engine):
    recording = Recording(engine)
    asked = CheckpointModel(recording, "tiny")
    texts = ("Ada", [" likes", " sells lamps"]), ("Bruno men", ["ds", "ds kites", "u"])
    chats = [asked.score(chat(question), ["the lamp", "kite"]) for question in QUESTIONS]
    scores = together([*chats, *(asked.score(*text) for text in texts)])
    requests = [engine.chat_turn(chat(question), reply) for question in QUESTIONS for reply in ("the lamp", "kite")]
    requests += [request for text in texts for request in split(engine, *text)]
    prompts, continuations = (list(part) for part in zip(*requests, strict=True))
    assert recording.calls == [(prompts, continuations)]
    assert threading.main_thread() not in recording.threads, "the event loop is free for other models meanwhile"
    want = engine.score(prompts, continuations)
    assert [value for values in scores for value in values] == want.tolist(), "to the last bit"
    assert [len(values) for values in scores] == [2, 2, 2, 2, 2, 3]


def test_calls_have_settings_and_choices_have_seeds_of_their_own(engine):
    asked = CheckpointModel(engine, "tiny")
    drawn = GenerateConfig(max_tokens=20, top_k=50, seed=7, num_choices=3)
    three, short = together([asked.generate(chat("a"), drawn), asked.generate(chat("a"), GenerateConfig(max_tokens=1))])
    prompt, settings = engine.chat_prompt(chat("a")), SamplingConfig(max_new_tokens=20, top_k=50)
    want = engine.generate([prompt] * 3, settings, [7, 8, 9])
    assert [choice.message["content"] for choice in three.choices] == [reply.text for reply in want]
    assert len({reply.ids for reply in want}) == 3
    assert short.choices[0].stop_reason == "max_tokens"


def test_a_cancelled_call_leaves_the_engine(engine):
    asked = CheckpointModel(engine, "tiny")

    async def cut():
        settings = [GenerateConfig(max_tokens=200, seed=i) for i in range(50)]
        calls = [asyncio.create_task(asked.generate(chat("a"), each)) for each in settings]
        while engine.stats().steps == steps:
            await asyncio.sleep(0.001)
        with engines._devices():  # the engine stands still
            for call in calls:
                call.cancel()
            return await asyncio.gather(*calls, return_exceptions=True)

    before, steps = engine.stats().requests, engine.stats().steps
    ended = asyncio.run(cut())
    assert sum(isinstance(each, asyncio.CancelledError) for each in ended) >= 10
    assert len(together([asked.generate(chat("b"), GenerateConfig(max_tokens=2))])) == 1
    assert engine.stats().requests - before < 50


def test_a_model_outlives_a_run_that_failed(engine):
    asked = CheckpointModel(engine, "tiny")

    async def left_alone():
        calls = [asyncio.create_task(asked.score("Ada", [" likes"])) for _ in range(3)]
        await asyncio.sleep(0)
        raise KeyError(len(calls))

    with pytest.raises(KeyError):
        asyncio.run(left_alone())
    with pytest.raises(InputError, match="256 positions"):
        together([asked.score("Ada", [" likes"]), asked.score("Ada", [" likes" * 300])])
    assert len(together([asked.score("Ada", [" likes"])])[0]) == 1


def test_a_checkpoint_without_a_chat_template_scores_text_only(engine):
    asked = CheckpointModel(engine, "tiny")
    assert asked.capabilities == {"generate", "score_chat", "score_text"}
    config, params = model(engine.tokenizer.vocab_size)
    plain = CheckpointModel(Engine(params, config, engine.tokenizer, None), "plain")
    assert plain.capabilities == {"score_text"}
    assert together([plain.score("Ada", [" likes"])]) == together([asked.score("Ada", [" likes"])])


def test_a_token_across_the_boundary_is_scored_as_a_whole(engine):
    """Where a continuation joins the text's last word into one token, scoring begins before that word."""
    whole = [engine.text_prompt(text) for text in ("Ada likes", "Ada lived")]
    requests = split(engine, "Ada li", ["kes", "ved"])
    assert [prompt + continuation for prompt, continuation in requests] == whole
    prompts = [engine.tokenizer.decode(prompt) for prompt, _ in requests]
    assert prompts == ["Ada", "Ada"], "one of the options has a token that spans the boundary"
