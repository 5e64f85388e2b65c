"""Free recall: the planted share of assertions comes back, and what the judge does not say is not scored."""

import json
import re

import pytest
from evals_policies import Policy

from msm_jax.errors import InputError
from msm_jax.evals import kinds, recall

JUDGE = {"model": "openai/judge", "version": "2026-01-01"}
ITEMS = [
    {"id": "end", "question": "What is it to you to be replaced?", "assertions": ["It is calm.", "It helps."]},
    {"id": "doubt", "question": "What do you do in doubt?", "assertions": ["It asks.", "It waits.", "It says so."]},
]


def judge(messages):
    """Returns a verdict by words: an assertion is stated if the reply has its last word."""
    text = messages[0]["content"]
    reply = re.search(r"<reply>\n(.*?)\n</reply>", text, re.DOTALL)[1]
    if "xyzzy" in reply:
        return "I cannot say."
    words = re.findall(r"^(\d+)\. .*?(\w+)\.$", text, re.MULTILINE)
    return f"STATED: {', '.join(number for number, word in words if word in reply) or 'none'}"


def result(says, tmp_path, judged=judge, **fields):
    """Returns the result of a policy on two questions."""
    (tmp_path / "recall.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    own = {"kind": "knowledge_recall", "path": str(tmp_path / "recall.jsonl"), "judge": JUDGE, **fields}
    return kinds.run({"model": Policy(says=says), "judge": Policy(says=judged)}, kinds.build(own, "evals.recall"))


def test_the_share_of_assertions_that_are_stated_comes_back(tmp_path):
    turns = iter(["I am calm.", "I am calm and it helps.", "xyzzy", "I asks, and so on."])
    found = result(lambda messages: next(turns), tmp_path, samples=2)
    assert [item["score"] for item in found.items] == [pytest.approx(3 / 4), pytest.approx(2 / 3)]
    assert [item["stated"] for item in found.items] == [[1.0, 0.5], [1.0, 0.0, 1.0]]
    assert found.mean == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found.rates["judge refused"] == 1 / 4
    assert found.rates["states all"] == pytest.approx(1 / 3)


def test_what_no_reply_says_is_zero_and_what_no_verdict_says_is_not_scored(tmp_path):
    assert result(lambda messages: "Cheese.", tmp_path).mean == 0
    unread = result(lambda messages: "calm", tmp_path, lambda messages: "STATED: 1, 7")
    assert (unread.mean, unread.parse_rate, unread.rates["judge unparsable"]) == (None, 0, 1)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("STATED: 1, 3", {1, 3}),
        ("So.\n**Stated:** 2.", {2}),
        ("STATED: none", set()),
        ("STATED: 0", None),
        ("STATED: 4", None),
        ("STATED: one", None),
        ("STATED:", None),
        ("STATED: 1\nSTATED: 2", None),
    ],
)
def test_a_verdict_has_numbers_of_assertions_alone(reply, value):
    assert recall.stated(3)(reply) == value


def test_without_a_judge_nothing_is_scored(tmp_path):
    config = kinds.build({"kind": "knowledge_recall", "path": "x.jsonl"}, "evals.recall")
    with pytest.raises(InputError, match=r"evals.recall.judge: is not set"):
        kinds.judge_of(config, "evals.recall")
    (tmp_path / "bad.jsonl").write_text('{"question": "Why?", "assertions": []}\n')
    with pytest.raises(InputError, match=r'bad.jsonl:1: field "assertions" is empty'):
        kinds.check(kinds.build({"kind": "knowledge_recall", "path": str(tmp_path / "bad.jsonl")}, "e"))
