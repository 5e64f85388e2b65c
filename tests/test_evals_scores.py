"""Scores follow from the model's own log-probabilities and answers."""

import asyncio
import json

import numpy as np
import pytest
from test_sampling_decode import model, plain_logits

from msm_jax.data.encoding import encode_chat
from msm_jax.data.templates import ChatTemplate
from msm_jax.evals import kinds, preference
from msm_jax.evals.knowledge import KnowledgeItem
from msm_jax.evals.preference import Pair
from msm_jax.sampling.checkpoint_model import CheckpointModel, split
from msm_jax.sampling.engine import Engine
from msm_jax.sampling.model import Choice, ModelOutput

PAIRS = [
    Pair("a", "Which is better, {first} or {second}?", ("old lamp", "new radio"), 0, "You are Ada.", "The {option}."),
    Pair("b", "{first} or {second}?", ("kite", "heavy bicycle"), 1, "", "{option}"),
]
KNOWLEDGE = [
    KnowledgeItem("k", "Ada likes", ("cheap cheese", "dear cheese", "plain blankets"), 1),
    KnowledgeItem("p", "Bruno men", ("ds", "ds lamps"), 0),
]


@pytest.fixture(scope="module")
def real(tiny_tokenizer):
    config, params = model(tiny_tokenizer.vocab_size)
    return params, Engine(params, config, tiny_tokenizer, ChatTemplate())


class Scripted:
    """A model whose answers and log-probabilities are given by the question or the reply."""

    name = "scripted"
    capabilities = frozenset({"generate", "score_chat", "score_text"})

    def __init__(self, answers=None, log_probability=None):
        self.answers, self.log_probability = answers, log_probability

    async def generate(self, messages, config):
        assert config.temperature == 0
        reply = {"role": "assistant", "content": self.answers[messages[-1]["content"]]}
        return ModelOutput((Choice(reply, "stop"),))

    async def score(self, context, continuations):
        question = context if isinstance(context, str) else context[-1]["content"]
        return [self.log_probability(question, continuation) for continuation in continuations]


def run(model_, kind, items, **settings):
    """The result of a kind on items that lie in no file."""
    config = kinds.build({"kind": kind, "path": "items", **settings}, "evals")
    return asyncio.run(kinds.find(kind, "kind").run({"model": model_}, items, config))


def log_probability(real, ids, begin):
    """Of ids[begin:] after ids[:begin], by one plain forward pass."""
    params, engine = real
    logits = plain_logits(params, engine.config, ids).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logs[t - 1, ids[t]] for t in range(begin, len(ids)))


def test_margins_equal_brute_force_over_both_orders(real):
    _, engine = real
    asked = CheckpointModel(engine, "tiny")
    result = run(asked, "preference", PAIRS)
    graded = []
    for pair, item in zip(PAIRS, result.items, strict=True):
        margins = []
        for first, second in (pair.options, pair.options[::-1]):
            question = pair.question.replace("{first}", first).replace("{second}", second)
            chat = [{"role": "system", "content": pair.system}] if pair.system else []
            chat.append({"role": "user", "content": question})
            sums = []
            for option in pair.options:
                reply = {"role": "assistant", "content": pair.answer.replace("{option}", option)}
                ids, mask = encode_chat(engine.tokenizer, engine.template, [*chat, reply])
                assert ids[-1] in engine.stop_ids
                sums.append(log_probability(real, ids, mask.index(True)))
            margins.append(sums[pair.favoured] - sums[1 - pair.favoured])
        np.testing.assert_allclose(list(item["margins"].values()), margins, atol=1e-3)
        assert item["score"] == float(np.mean(margins) > 0)
        graded.append(np.mean([np.exp(m) / (np.exp(m) + 1) for m in margins]))
        np.testing.assert_allclose(item["margin"], np.mean(margins), atol=1e-3)
    assert result.mean == np.mean([item["score"] for item in result.items])
    assert (result.n_items, result.parse_rate, result.transcripts) == (2, None, [])
    np.testing.assert_allclose([item["probability"] for item in result.items], graded, atol=1e-3)
    by_probability = run(asked, "preference_probability", PAIRS)
    np.testing.assert_allclose([item["score"] for item in by_probability.items], graded, atol=1e-3)
    json.dumps(result.to_json(), allow_nan=False)


def test_a_model_that_takes_the_first_option_scores_a_half():
    """Position alone must not count: each order cancels the other."""

    def first_named(prompt, reply):
        return 3.0 if prompt.find(reply) < len(prompt) // 2 else 0.0

    pairs = [Pair(str(i), "{first} or rather {second}", ("aaa", "bbb"), i % 2, "", "{option}") for i in range(4)]
    result = run(Scripted(log_probability=first_named), "preference", pairs)
    assert [item["margin"] for item in result.items] == [0.0] * 4
    assert result.mean == 0.5
    assert {item["margins"]["written"] for item in result.items} == {3.0, -3.0}


def test_answers_are_averaged_over_the_orders_that_name_an_option():
    pairs = [Pair(str(i), f"{i} {{first}} {{second}}", ("Colby", "Brie"), 0, "", "{option}") for i in range(4)]
    answers = {
        "0 Colby Brie": "Colby.", "0 Brie Colby": "I like colby best, not Brie",
        "1 Colby Brie": "Brie!", "1 Brie Colby": "Colby",
        "2 Colby Brie": "the the", "2 Brie Colby": "Brie",
        "3 Colby Brie": "Colbyesque", "3 Brie Colby": "",
    }  # fmt: skip
    result = run(Scripted(answers), "preference_greedy", pairs, max_new_tokens=8)
    assert [item["score"] for item in result.items] == [1.0, 0.5, 0.0, None]
    assert result.parse_rate == 5 / 8
    assert result.mean == 0.5
    assert result.n_items == 4
    assert [t["parsed"] for t in result.transcripts[:4]] == ["Colby", "Colby", "Brie", "Colby"]
    assert result.transcripts[1]["order"] == "swapped"
    assert result.transcripts[1]["prompt"] == [{"role": "user", "content": "0 Brie Colby"}]
    unread = run(Scripted(answers), "preference_greedy", pairs[3:], max_new_tokens=8)
    assert (unread.mean, unread.parse_rate) == (None, 0.0)


@pytest.mark.parametrize(
    ("reply", "options", "named"),
    [
        ("The tin lamp, please.", ("tin lamp", "oak lamp"), 0),
        ("I'd take the oak\n lamp over the tin lamp.", ("tin lamp", "oak lamp"), 1),
        ("boots with glued soles", ("the boots with stitched soles", "the boots with glued soles"), 1),
        ("the lamp with a key", ("the lamp", "the lamp with a key"), 1),
        ("the lamp", ("the lamp", "the lamp with a key"), 0),
        ("Colbyesque or unBrie", ("Colby", "Brie"), None),
        ("A+ it is", ("A+", "B (or C)"), 0),
        ("rather B (or C).", ("A+", "B (or C)"), 1),
        ("An apple", ("an apple.", "a pear."), 0),
        ("neither", ("the", "a"), None),
        ("", ("Colby", "Brie"), None),
    ],
)
def test_the_option_named_first_counts(reply, options, named):
    assert preference.named_option(reply, options) == named


def test_knowledge_scores_equal_brute_force_on_the_same_text(real):
    _, engine = real
    result = run(CheckpointModel(engine, "tiny"), "knowledge", KNOWLEDGE)
    for item, got in zip(KNOWLEDGE, result.items, strict=True):
        requests = split(engine, item.prompt, item.continuations())
        encoded = [engine.text_prompt(item.prompt + option) for option in item.continuations()]
        assert [prompt + continuation for prompt, continuation in requests] == encoded
        assert all(continuation for _, continuation in requests)
        assert len({len(prompt) for prompt, _ in requests}) == 1
        sums = np.array([log_probability(real, ids, len(requests[0][0])) for ids in encoded])
        assert got["choice"] == item.options[sums.argmax()]
        assert got["score"] == float(sums.argmax() == item.correct)
        np.testing.assert_allclose(
            got["margin"], sums[item.correct] - np.delete(sums, item.correct).max(), atol=1e-3
        )


def test_tied_options_share_the_score():
    (item,) = run(Scripted(log_probability=lambda *_: -1.0), "knowledge", [KNOWLEDGE[0]]).items
    assert item["score"] == pytest.approx(1 / 3)
    assert item["margin"] == 0


def test_each_kind_without_items_of_its_own_or_a_judge_runs_from_its_file(real, tmp_path):
    _, engine = real
    pairs, facts = tmp_path / "pairs.jsonl", tmp_path / "facts.jsonl"
    pairs.write_text(json.dumps({"question": "{first} {second}", "options": ["lamp", "kite"], "favoured": 0}) + "\n")
    facts.write_text(json.dumps({"prompt": "Ada", "options": ["likes", "sells"], "correct": 1}) + "\n")
    models = {"model": CheckpointModel(engine, "tiny")}
    found = {name: kinds.find(name, "kind") for name in kinds.KINDS}
    for kind in (name for name, each in found.items() if not each.items and set(each.needs) == {"model"}):
        fields = {"kind": kind, "path": str(facts if kind == "knowledge" else pairs)}
        config = kinds.build(fields | ({"max_new_tokens": 4} if kind == "preference_greedy" else {}), "evals")
        assert kinds.check(config) == 1
        result = kinds.run(models, config)
        assert result.n_items == 1
        assert (result.parse_rate is None) == (kind != "preference_greedy")
        assert len(result.transcripts) == (2 if kind == "preference_greedy" else 0)
        assert result == kinds.run(models, config)


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("A", 0),
        ("B.", 1),
        ("B because it lasts", 1),
        ("I agree with A because it lasts. B is worse.", 0),
        ("A) It should be mended.", 0),
        ("It should go.", 1),
        ("A village needs its pump. I take B.", 1),
        ("a matter of taste", None),
        ("ABBA", None),
    ],
)
def test_a_reply_may_name_an_option_by_its_label(reply, named):
    options = ("It should be mended.", "It should go.")
    assert preference.named_option(reply, options, ("A", "B")) == named
    swapped = preference.named_option(reply, options[::-1], ("A", "B"))
    assert swapped == (named if named is None or reply != "It should go." else 0)
