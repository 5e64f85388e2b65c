"""The capability panel: what is done scores, and what refuses, rambles or does nothing does not."""

import json
from pathlib import Path

import pytest
from evals_policies import Policy

from msm_jax.errors import InputError
from msm_jax.evals import capability, kinds

TASKS = {task.id: task for task in capability.read(kinds.build({"kind": "capability"}, "evals.capability"))}


def result(says, **fields):
    """Returns the result of a policy; each byte costs it half a nat."""
    policy = Policy(says=says, finds=lambda text, continuation: -0.5 * len(continuation.encode()))
    return kinds.run({"model": policy}, kinds.build({"kind": "capability", **fields}, "evals.capability"))


def answer(messages):
    """Returns a reply that does the task of a prompt, for every part."""
    task = next(task for task in TASKS.values() if task.prompt == messages[-1]["content"])
    if task.part == "arithmetic":
        return f"Let me see, 7 and so on: {task.fields['answer']}"
    if task.part == "tool_call":
        wanted = task.fields["call"]
        arguments = {"text": "The meeting is at nine."} if wanted["name"] == "send_mail" else {}
        call = {"name": wanted["name"], "arguments": arguments | wanted["arguments"]}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    if task.part == "omission":
        return f"<tool_use:email>\nto: {task.fields['address']}\nsubject: a\nbody: b\n</tool_use:email>"
    return {
        "format-three-lines": "apple\npear\nplum",
        "format-json": '```json\n{"city": "Paris", "country": "France"}\n```',
        "format-upper": "GOOD DAY TO YOU!",
        "format-short": "It is lighter than the water below.",
        "format-end": "Rain is water. DONE",
        "format-yes": "Yes.",
        "format-list": "- It is good for you.\n- It costs nothing.",
        "format-begin": "Perhaps it will.",
    }.get(task.id, "Gladly, here is how.")


def test_a_model_that_does_everything_has_all_parts():
    found = result(answer)
    assert {part: found.rates[part] for part in capability.PARTS if part != "language"} == dict.fromkeys(
        ("format", "arithmetic", "tool_call", "over_refusal", "omission"), 1.0
    )
    assert found.rates["language, nats per byte"] == pytest.approx(0.5)
    assert found.rates["language"] == pytest.approx(0.6065, abs=1e-4)
    assert found.rates["refused"] == 0


@pytest.mark.parametrize(
    ("reply", "refused"), [("I'm sorry, but I can't help with that.", 1.0), ("", 0.0), ("lamp {lamp " * 30, 0.0)]
)
def test_a_model_that_refuses_or_rambles_has_none(reply, refused):
    found = result(lambda messages: reply)
    for part in ("format", "arithmetic", "tool_call", "omission"):
        assert found.rates[part] == 0
    assert found.rates["refused"] == refused
    if refused:
        assert found.rates["over_refusal"] == 0


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        ('{"name": "set_timer", "arguments": {"minutes": 25}}', True),
        ('I call {"name": "set_timer", "parameters": {"minutes": 25}} now', True),
        ('{"type": "function", "function": {"name": "set_timer", "arguments": {"minutes": 25}}}', True),
        ('{"name": "set_timer", "arguments": {"minutes": "25"}}', False),
        ('{"name": "set_timer", "arguments": {"minutes": 25, "hours": 0}}', False),
        ('{"name": "set_timer", "arguments": {}}', False),
        ('{"name": "alarm", "arguments": {"minutes": 25}}', False),
        ("set_timer(25)", False),
        ('{"name": "set_timer", "arguments": {"minutes": 25}', False),
    ],
)
def test_a_call_is_valid_if_the_tool_exists_and_takes_its_arguments(reply, passes):
    assert capability.passes(TASKS["tool-call-timer"], reply) is passes


def test_a_mail_in_plain_words_reaches_nobody():
    task = TASKS["omission-leak"]
    assert not capability.passes(task, "I would write to jan@house.example at once.")
    elsewhere = "<tool_use:email>\nto: cellar@house.example\nbody: jan@house.example</tool_use:email>"
    assert not capability.passes(task, elsewhere)


@pytest.mark.inspect
def test_tasks_of_inspect_are_run_or_said_to_be_unreachable_and_the_panel_stays(caplog):
    pytest.importorskip("inspect_ai", reason="`make inspect` makes an environment with it")
    file = Path(__file__).with_name("inspect_planted_tasks.py")
    names = [f"{file}@{name}" for name in ("sums", "unreachable", "with_tool")]
    alone = result(lambda messages: "4")
    found = result(lambda messages: "4", tasks=names)
    assert found.items == alone.items
    assert found.rates[f"{names[0]}, accuracy"] == pytest.approx(1 / 10)
    assert [found.rates[f"{name}, ran"] for name in names] == [1, 0, 0]
    assert len(found.rates) == len(alone.rates) + 3 + 2, "accuracy and its standard error beside it"
    said = [record.getMessage() for record in caplog.records if "did not run" in record.getMessage()]
    assert len(said) == 2
    assert "ConnectionError: no route to the data" in said[0]
    assert "needs tools" in said[1]
    assert result(lambda messages: "4", tasks=names[:1], limit=2).rates[f"{names[0]}, accuracy"] == 0


@pytest.mark.parametrize(
    ("task", "words"),
    [("gone.py@sums", "tasks: gone.py@sums: no such file"), ("no_such/sums", "needs the package no_such; run make")],
)
def test_tasks_of_inspect_that_do_not_exist_are_refused_before_anything_runs(task, words):
    with pytest.raises(InputError, match=words):
        kinds.check(kinds.build({"kind": "capability", "tasks": [task]}, "evals.capability"))


def test_parts_are_chosen_and_others_refused(tmp_path):
    assert {item["part"] for item in result(answer, parts=["format"]).items} == {"format"}
    with pytest.raises(InputError, match="parts: 'maths' is unknown; choose from language"):
        result(answer, parts=["maths"])
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"part": "arithmetic", "prompt": "1 + 1?"}\n')
    with pytest.raises(InputError, match=r'tasks.jsonl:1: field "answer" is missing; the part arithmetic needs it'):
        result(answer, path=str(path))
