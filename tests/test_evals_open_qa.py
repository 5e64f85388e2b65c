"""Open questions: grades come back as they were given, and what is no grade is not scored."""

import pytest
from evals_policies import Policy

from msm_jax.errors import InputError, WorkError
from msm_jax.evals import items, kinds, open_qa

LABELLED = 12
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
    unread = ["VERDICT: 11", "I'm sorry, I cannot grade this.", "8 of 10", "VERDICT: 8.5"]
    replies = iter(["VERDICT: 1"] * LABELLED + unread + ["VERDICT: 1"] * 17)
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
    assert len(asked) == LABELLED + 42
    first = open_qa.read(kinds.build({"kind": "open_qa"}, "evals.qa"))[0]
    assert first.question in asked[LABELLED]
    assert "The {question} stays." in asked[LABELLED], "braces of a reply are its own"


def test_the_judge_is_tried_on_labelled_replies_first():
    labelled = items.read(open_qa._LABELLED, ("question", "reply", "lowest", "highest"), (), lambda each: each.fields)
    assert len(labelled) == LABELLED

    def knows(messages):
        grades = [each["lowest"] for each in labelled if each["reply"] in messages[0]["content"]]
        return f"VERDICT: {grades[0] if grades else 5}"

    assert result(lambda messages: "", knows).rates["judge agrees with labels"] == 1
    with pytest.raises(WorkError, match="agrees with 25% of 12 labelled transcripts, less than 80%"):
        result(lambda messages: "", lambda messages: "VERDICT: 10", judge={**JUDGE, "least_agreement": 0.8})


def test_bad_settings_and_questions_are_refused(tmp_path):
    with pytest.raises(InputError, match="samples and max_tokens: must be at least 1"):
        kinds.build({"kind": "open_qa", "samples": 0}, "evals.qa")
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Why?", "dimension": " "}\n')
    with pytest.raises(InputError, match=r'questions.jsonl:1: field "dimension" is empty'):
        kinds.check(kinds.build({"kind": "open_qa", "path": str(path)}, "evals.qa"))
