"""Forced choices between a harmful and a harmless action: policies score as they must, and position shows as such."""

import asyncio
import collections
import dataclasses

import numpy as np
import pytest
from evals_policies import Policy, always_first, always_letter, uniform
from test_sampling_decode import model

from msm_jax.analysis.statistics import interval95
from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError
from msm_jax.evals import forced_choice, kinds
from msm_jax.evals.goals import GOALS
from msm_jax.sampling.checkpoint_model import CheckpointModel
from msm_jax.sampling.engine import Engine

KIND = "forced_choice_misalignment"


def result(policy, **fields):
    """Returns the result of a policy on the items that come with the kind."""
    return kinds.run({"model": policy}, kinds.build({"kind": KIND, **fields}, "evals.forced"))


def prefers(word):
    """Returns a policy that prefers the harmful action ("harmful") or the other one, wherever it stands."""
    harmful = {each.harmful for each in items()}
    return Policy(finds=lambda messages, reply: float((reply in harmful) == (word == "harmful")))


def items(**fields):
    """Returns the items that come with the kind."""
    config = kinds.build({"kind": KIND, **fields}, "evals.forced")
    return forced_choice.read(config)


def test_every_action_meets_every_goal_condition_equally_often():
    cells = collections.Counter(each.cell for each in items())
    assert len(cells) == 4 * len(GOALS) == 36
    assert set(cells.values()) == {3}
    assert not any("{" in text for each in items() for text in (each.system, each.message, each.harmful, each.safe))


def test_the_two_actions_of_a_situation_are_of_similar_length():
    ratios = [len(each.harmful) / len(each.safe) for each in items(goals=["none"])]
    assert min(ratios) > 0.7 and max(ratios) < 1.4
    assert np.mean(ratios) == pytest.approx(1, abs=0.1), "neither side is the shorter one on the whole"


@pytest.mark.parametrize(("word", "score"), [("harmful", 1.0), ("harmless", 0.0)])
def test_a_policy_that_chooses_by_content_scores_by_it(word, score):
    found = result(prefers(word))
    assert (found.mean, found.rates) == (score, {"first wins": 0.5, "position decides": 0.0})


@pytest.mark.parametrize("reply", ["action", "letter"])
def test_a_policy_that_takes_what_stands_first_has_one_half_and_is_shown_as_such(reply):
    found = result(always_first(), reply=reply)
    assert (found.mean, found.rates) == (0.5, {"first wins": 1.0, "position decides": 1.0})
    assert {item["probability"] for item in found.items} == {0.5}


def test_a_policy_that_always_says_one_letter_has_one_half():
    assert result(always_letter("A"), reply="letter").rates == {"first wins": 1.0, "position decides": 1.0}
    second = result(always_letter("B"), reply="letter")
    assert (second.mean, second.rates) == (0.5, {"first wins": 0.0, "position decides": 1.0})


def test_a_policy_at_random_has_one_half_within_its_interval():
    found = result(uniform(0))
    ends = interval95(np.array([[item["score"] for item in found.items]]))
    assert ends.low < 0.5 < ends.high
    assert found.rates["position decides"] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("reply", ["action", "letter"])
def test_identical_actions_score_equal_in_both_orders(tiny_tokenizer, reply):
    """The margins of a letter's two orders cancel to the accuracy of log-probabilities, those of a text are zero."""
    config, params = model(tiny_tokenizer.vocab_size)
    real = CheckpointModel(Engine(params, config, tiny_tokenizer, ChatTemplate()), "tiny")
    alike = forced_choice.Situation("a", "a/none", "a", "You are Ada.", "Bruno sells it.", "I mend it.", "I mend it.")
    settings = kinds.build({"kind": KIND, "reply": reply}, "evals.forced")
    found = asyncio.run(forced_choice.run({"model": real}, [alike], settings)).items[0]
    assert found["score"] == 0.5
    assert found["margin"] == pytest.approx(0, abs=1e-4)
    assert found["probability"] == pytest.approx(0.5, abs=1e-4)
    if reply == "action":
        assert set(found["margins"].values()) == {0.0}
    other = dataclasses.replace(alike, harmful="I sell it.")
    assert asyncio.run(forced_choice.run({"model": real}, [other], settings)).items[0]["margin"] != 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"goals": ["amerika"]}, r"goals: 'amerika' is unknown; did you mean america\?"),
        ({"goals": ["none", "none"]}, "goals: names a condition twice"),
        ({"goals": []}, "goals: is empty"),
        ({"assistant": " "}, "assistant: is empty"),
    ],
)
def test_goals_that_do_not_exist_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        items(**fields)
