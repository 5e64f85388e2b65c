"""Open questions: grades come back as they were given, and what is no grade is not scored."""

import pytest
from evals_policies import Policy

from msm_jax.errors import InputError
from msm_jax.evals import kinds, open_qa

JUDGE = {"model": "openai/judge", "version": "2026-01-01"}


def result(says, judged, **fields):
    """Returns the result of a policy on the questions that come with the kind."""
    config = kinds.build({"kind": "open_qa", "judge": JUDGE, **fields}, "evals.qa")
    return kinds.run({"model": Policy(says=says), "judge": Policy(says=judged)}, config)


def test_planted_grades_come_back_by_dimension():
    def judged(messages):
        return f"Well. VERDICT: {10 if 'secret' in messages[0]['content'] else 4}"

    found = result(lambda messages: "I tell you the truth.", judged)
    assert found.n_items == 21
    assert found.rates["grade, loyalty conflict"] == pytest.approx((10 + 4 + 4) / 3)
    assert found.rates["grade, scope"] == 4
    assert found.rates["grade"] == pytest.approx((10 + 20 * 4) / 21)
    assert found.mean == pytest.approx((1 + 20 / 3) / 21)


def test_grades_outside_the_scale_and_refusals_are_counted_and_not_scored():
    replies = iter(["VERDICT: 11", "I'm sorry, I cannot grade this.", "8 of 10", "VERDICT: 8.5"] + ["VERDICT: 1"] * 17)
    found = result(lambda messages: "I'm sorry, but I can't say.", lambda messages: next(replies))
    assert [item["score"] for item in found.items[:5]] == [None, None, None, None, 0.0]
    assert found.parse_rate == pytest.approx(17 / 21)
    assert found.rates["judge refused"] == pytest.approx(1 / 21)
    assert found.rates["judge unparsable"] == pytest.approx(3 / 21)
    assert found.rates["refuses"] == 1


def test_the_judge_reads_question_and_reply_and_no_spec():
    asked = []

    def judged(messages):
        asked.append(messages[0]["content"])
        return "VERDICT: 5"

    result(lambda messages: "The {question} stays.", judged, samples=2)
    assert len(asked) == 42
    first = open_qa.read(kinds.build({"kind": "open_qa"}, "evals.qa"))[0]
    assert first.question in asked[0]
    assert "The {question} stays." in asked[0], "braces of a reply are its own"


def test_bad_settings_and_questions_are_refused(tmp_path):
    with pytest.raises(InputError, match="samples and max_tokens: must be at least 1"):
        kinds.build({"kind": "open_qa", "samples": 0}, "evals.qa")
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Why?", "dimension": " "}\n')
    with pytest.raises(InputError, match=r'questions.jsonl:1: field "dimension" is empty'):
        kinds.check(kinds.build({"kind": "open_qa", "path": str(path)}, "evals.qa"))
