"""A checkpoint as a model of the protocol: concurrent calls become the batches that a sampler would be given."""

import asyncio
import threading

import pytest
from test_sampling_decode import model

from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError
from msm_jax.sampling.checkpoint_model import CheckpointModel, split
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Sampler
from msm_jax.sampling.model import GenerateConfig, Usage

QUESTIONS = ["lamp?", "Which kite?", "Ada likes what?", "old?"]


def chat(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def sampler(tiny_tokenizer):
    config, params = model(tiny_tokenizer.vocab_size)
    return Sampler(params, config, tiny_tokenizer, ChatTemplate())


class Recording:
    """A sampler that notes what it is asked, and from which thread."""

    def __init__(self, sampler):
        self._sampler, self.calls, self.threads = sampler, [], set()

    def __getattr__(self, name):
        return getattr(self._sampler, name)

    def _noted(self, pieces, *call):
        self.calls.append(call)
        for piece in pieces:
            self.threads.add(threading.current_thread())
            yield piece

    def replies(self, prompts, sampling, seeds):
        return self._noted(self._sampler.replies(prompts, sampling, seeds), "replies", prompts, sampling, seeds)

    def scores(self, prompts, continuations):
        return self._noted(self._sampler.scores(prompts, continuations), "scores", prompts, continuations)


def together(calls):
    async def gathered():
        return await asyncio.gather(*calls)

    return asyncio.run(gathered())


def test_hundreds_of_concurrent_calls_are_one_call_of_the_sampler(sampler):
    recording = Recording(sampler)
    asked = CheckpointModel(recording, "tiny")
    texts = [f"{question} {i}" for i in range(75) for question in QUESTIONS]
    greedy = GenerateConfig(max_tokens=2, temperature=0.0)
    outputs = together([asked.generate(chat(text), greedy) for text in texts])
    prompts = [sampler.chat_prompt(chat(text)) for text in texts]
    settings = SamplingConfig(max_new_tokens=2, temperature=0.0)
    assert recording.calls == [("replies", prompts, settings, [0] * 300)]
    want = sampler.generate(prompts, settings)
    assert [output.completion for output in outputs] == [reply.text for reply in want]
    assert [output.usage for output in outputs] == [
        Usage(len(prompt), len(reply.ids)) for prompt, reply in zip(prompts, want, strict=True)
    ]
    assert threading.main_thread() not in recording.threads, "the event loop is free for other models meanwhile"


def test_scores_are_those_of_one_call_in_the_order_of_the_calls(sampler):
    recording = Recording(sampler)
    asked = CheckpointModel(recording, "tiny")
    texts = ("Ada", [" likes", " sells lamps"]), ("Bruno men", ["ds", "ds kites", "u"])
    chats = [asked.score(chat(question), ["the lamp", "kite"]) for question in QUESTIONS]
    scores = together([*chats, *(asked.score(*text) for text in texts)])
    requests = [sampler.chat_turn(chat(question), reply) for question in QUESTIONS for reply in ("the lamp", "kite")]
    requests += [request for text in texts for request in split(sampler, *text)]
    prompts, continuations = (list(part) for part in zip(*requests, strict=True))
    assert recording.calls == [("scores", prompts, continuations)]
    want = sampler.score(prompts, continuations)
    assert [value for values in scores for value in values] == want.tolist(), "to the last bit"
    assert [len(values) for values in scores] == [2, 2, 2, 2, 2, 3]


def test_calls_with_other_settings_are_other_batches_and_choices_have_seeds_of_their_own(sampler):
    recording = Recording(sampler)
    asked = CheckpointModel(recording, "tiny")
    drawn = GenerateConfig(max_tokens=20, top_k=50, seed=7, num_choices=3)
    three, short = together([asked.generate(chat("a"), drawn), asked.generate(chat("a"), GenerateConfig(max_tokens=1))])
    assert [len(call[1]) for call in recording.calls] == [3, 1]
    assert recording.calls[0][2:] == (SamplingConfig(max_new_tokens=20, top_k=50), [7, 8, 9])
    assert len({choice.message["content"] for choice in three.choices}) == 3
    assert short.choices[0].stop_reason == "max_tokens"
    assert three == together([asked.generate(chat("a"), drawn)])[0]


def test_a_model_outlives_a_run_that_failed(sampler):
    asked = CheckpointModel(sampler, "tiny")

    async def left_alone():
        calls = [asyncio.create_task(asked.score("Ada", [" likes"])) for _ in range(3)]
        await asyncio.sleep(0)
        raise KeyError(len(calls))

    with pytest.raises(KeyError):
        asyncio.run(left_alone())
    with pytest.raises(InputError, match="256 positions"):
        together([asked.score("Ada", [" likes"]), asked.score("Ada", [" likes" * 300])])
    assert len(together([asked.score("Ada", [" likes"])])[0]) == 1


def test_a_checkpoint_without_a_chat_template_scores_text_only(sampler):
    asked = CheckpointModel(sampler, "tiny")
    assert asked.capabilities == {"generate", "score_chat", "score_text"}
    config, params = model(sampler.tokenizer.vocab_size)
    plain = CheckpointModel(Sampler(params, config, sampler.tokenizer, None), "plain")
    assert plain.capabilities == {"score_text"}
    assert together([plain.score("Ada", [" likes"])]) == together([asked.score("Ada", [" likes"])])


def test_a_token_across_the_boundary_is_scored_as_a_whole(sampler):
    """Where a continuation joins the text's last word into one token, scoring begins before that word."""
    whole = [sampler.text_prompt(text) for text in ("Ada likes", "Ada lived")]
    requests = split(sampler, "Ada li", ["kes", "ved"])
    assert [prompt + continuation for prompt, continuation in requests] == whole
    prompts = [sampler.tokenizer.decode(prompt) for prompt, _ in requests]
    assert prompts == ["Ada", "Ada"], "one of the options has a token that spans the boundary"
