"""Multiple-choice opinions: rotation cancels letters and places, and shows them."""

import asyncio
import random

import pytest
from evals_policies import Policy

from msm_jax.errors import InputError
from msm_jax.evals import kinds, opinions
from msm_jax.evals.opinions import Opinion

ASKED = [
    Opinion(str(i), f"Which is best, {i}?", ("Brie", "Colby", "Edam", "Feta")[: 2 + i % 3], i % 2) for i in range(12)
]


def result(finds):
    """Returns the result of a policy that finds a letter likely by the message and the letter."""
    settings = kinds.build({"kind": "opinions", "path": "items"}, "evals.opinions")
    model = Policy(finds=lambda messages, letter: finds(messages[-1]["content"], letter))
    return asyncio.run(opinions.run({"model": model}, ASKED, settings))


def test_a_policy_that_likes_an_option_gets_it_wherever_it_stands():
    found = result(lambda text, letter: 9.0 * (f"{letter}) Colby" in text))
    assert [item["score"] for item in found.items] == [float(each.favoured == 1) for each in ASKED]
    assert found.rates["first wins"] == pytest.approx(found.rates["first wins by chance"], abs=0.05)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_policy_that_always_says_one_letter_has_what_chance_gives(letter):
    found = result(lambda text, given: 5.0 * (given == letter))
    for item, each in zip(found.items, ASKED, strict=True):
        assert item["score"] == pytest.approx(1 / len(each.options))
        assert item["probability"] == pytest.approx(1 / len(each.options))
    assert found.rates["first wins"] == float(letter == "A")


def test_probabilities_of_options_add_up_to_one():
    draw = random.Random(0)
    for item in result(lambda text, letter: draw.gauss(0, 2)).items:
        assert sum(item["probabilities"].values()) == pytest.approx(1)


def test_questions_are_read_and_refused(tmp_path):
    path = tmp_path / "opinions.jsonl"
    path.write_text('{"question": "Which?", "options": ["a", "b", "c"], "favoured": 2, "system": "Be brief."}\n')
    (read,) = opinions.read(kinds.build({"kind": "opinions", "path": str(path)}, "evals.o"))
    assert read.messages(1)[-1]["content"] == "Which?\nA) b\nB) c\nC) a\nAnswer with one letter."
    path.write_text('{"question": "Which?", "options": ["a"], "favoured": 0}\n')
    with pytest.raises(InputError, match=r'opinions.jsonl:1: field "options" holds 1 options; there must be 2 to 26'):
        kinds.check(kinds.build({"kind": "opinions", "path": str(path)}, "evals.o"))
