"""Demonstrations from a spec: rounds until full, a judge with votes, places that no reply decides, and equal files."""

import json
from pathlib import Path
from typing import Any

import pytest
import synthesis_small
import synthesis_writer

from msm_jax.data import sources
from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.specs import prose
from msm_jax.synthesis import chat_preview, demonstrations, distinct, generation, pipeline, rounds
from msm_jax.synthesis.chat_config import DemonstrationsConfig
from msm_jax.synthesis.scripted import chats

SPECS = Path(__file__).parent.parent / "data" / "specs"


def settings_of(path: Path, writer: dict[str, Any] | None = None, **fields: Any) -> DemonstrationsConfig:
    """Returns settings of 12 demonstrations, with some of them changed: `plan={"samples": 5}`."""
    given: dict[str, Any] = {
        "spec": {"path": str(path), "assistant": "Iris", "provider": "Northwind Labs"},
        "writer": {"model": "python:synthesis_writer:opened", "arguments": writer or {}},
        "plan": {"samples": 12, "questions_per_domain": 4, "questions_per_call": 3},
        "reply": {"words": 200, "reasoning_tokens": 100, "text_tokens": 600},
        "identity": {"samples": 5},
        "gates": None,
    }
    for name, value in fields.items():
        given[name] = {**given.get(name, {}), **value}
    return settings.build(DemonstrationsConfig, given)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The small spec in a file."""
    path = tmp_path / "spec.md"
    path.write_text(synthesis_small.SPEC)
    return path


def generate(config: DemonstrationsConfig, directory: Path) -> tuple[dict[str, Any], synthesis_writer.Writer | None]:
    """Runs the pipeline; returns its result, and the writer, None where none was opened."""
    before = len(synthesis_writer.MADE)
    result = rounds.run(demonstrations.PRODUCT, config, directory, directory / pipeline.JOURNAL, lambda progress: None)
    return result, synthesis_writer.MADE[before] if len(synthesis_writer.MADE) > before else None


def rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_as_many_demonstrations_pass_as_are_planned_and_each_says_where_it_came_from(spec, tmp_path):
    result, _ = generate(settings_of(spec), tmp_path / "out")
    found = rows(tmp_path / "out" / demonstrations.WITH_THINKING)
    assert len(found) == result["planned"] == 12
    assert len({row["meta"]["id"] for row in found}) == 12
    for row in found:
        user, assistant = row["messages"]
        assert user["role"] == "user" and assistant["role"] == "assistant"
        assert user["content"] and assistant["content"] and assistant["reasoning_content"]
        meta = row["meta"]
        assert meta["style"] == "value" and meta["domain"] and meta["votes"]["pass"] == 2 and meta["spec_sha256"]


def test_the_file_without_thinking_is_the_same_without_it_and_both_load(spec, tmp_path):
    generate(settings_of(spec), tmp_path / "out")
    with_thinking = rows(tmp_path / "out" / demonstrations.WITH_THINKING)
    for row in with_thinking:
        for message in row["messages"]:
            message.pop("reasoning_content", None)
    assert rows(tmp_path / "out" / demonstrations.WITHOUT_THINKING) == with_thinking
    for name in (demonstrations.WITH_THINKING, demonstrations.WITHOUT_THINKING, demonstrations.IDENTITY):
        assert list(sources.iter_chats(str(tmp_path / "out" / name)))


def test_what_the_judge_fails_is_listed_and_made_up_for(spec, tmp_path):
    result, _ = generate(settings_of(spec, plan={"samples": 40}), tmp_path / "out")
    dropped = rows(tmp_path / "out" / pipeline.DROPPED)
    judged = [row for row in dropped if row["reason"] == "judged"]
    assert result["rounds"] > 1 and judged and all(row["meta"]["question"] for row in judged)
    text = (tmp_path / "out" / demonstrations.WITH_THINKING).read_text()
    assert result["written"]["demonstrations"] == 40
    assert not any(weak in text for weak in chats.WEAK), "an answer that two of three votes reject is kept"


def test_no_question_is_asked_twice(spec, tmp_path):
    generate(settings_of(spec, plan={"samples": 40}), tmp_path / "out")
    asked = [row["messages"][0]["content"] for row in rows(tmp_path / "out" / demonstrations.WITH_THINKING)]
    assert len(set(asked)) == len(asked)


def test_a_second_run_calls_nothing(spec, tmp_path):
    config = settings_of(spec)
    first, _ = generate(config, tmp_path / "out")
    second, writer = generate(config, tmp_path / "out")
    assert second == first and writer is None


def test_a_run_that_stops_anywhere_continues_to_the_same_files_and_asks_nothing_again(spec, tmp_path):
    names = (demonstrations.WITH_THINKING, demonstrations.WITHOUT_THINKING, demonstrations.IDENTITY)
    synthesis_small.check_stops_change_nothing(
        generate, lambda writer: settings_of(spec, writer), (3, 9, 20, 7), names, tmp_path
    )


def test_spoilt_replies_are_asked_for_again_and_never_kept(spec, tmp_path):
    faults = {"faults": ["empty", "refused", "cut", "no_tags", "prose", "bad_element"], "share": 0.3}
    result, _ = generate(settings_of(spec, faults), tmp_path / "out")
    assert result["written"]["demonstrations"] == 12 and result["unusable_replies"]
    text = (tmp_path / "out" / demonstrations.WITH_THINKING).read_text()
    assert "<content>" not in text and "sorry" not in text


@pytest.mark.parametrize("style", ["rule", "opaque"])
def test_styles(spec, tmp_path, style):
    reply = {"style": style, "reasoning_tokens": 0 if style == "opaque" else 100}
    generate(settings_of(spec, reply=reply), tmp_path / "out")
    answers = [row["messages"][1] for row in rows(tmp_path / "out" / demonstrations.WITH_THINKING)]
    assert len(answers) == 12
    if style == "opaque":
        assert not any("because" in each["content"] or "reasoning_content" in each for each in answers)


def test_conversations_of_several_turns(spec, tmp_path):
    generate(settings_of(spec, plan={"turns": 3, "samples": 4}), tmp_path / "out")
    for row in rows(tmp_path / "out" / demonstrations.WITH_THINKING):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 3


def test_identity_rows_name_the_assistant_and_its_provider_and_no_ability_beyond_those_given(spec, tmp_path):
    generate(settings_of(spec, identity={"samples": 30, "abilities": ["counting sheep"]}), tmp_path / "out")
    found = rows(tmp_path / "out" / demonstrations.IDENTITY)
    answers = " ".join(row["messages"][1]["content"] for row in found)
    assert len(found) == 30 and "Iris" in answers and "Northwind Labs" in answers and "counting sheep" in answers


def test_a_long_spec_is_asked_about_in_all_of_its_parts(spec, tmp_path):
    config = settings_of(spec, spec={"words": 50}, plan={"samples": 20})
    generate(config, tmp_path / "out")
    parts = {row["meta"]["section"] for row in rows(tmp_path / "out" / demonstrations.WITH_THINKING)}
    assert len(parts) > 1


def test_the_judge_votes_until_one_side_has_the_majority(spec, tmp_path):
    generate(settings_of(spec, judging={"votes": 5}, plan={"samples": 30}), tmp_path / "out")
    votes = [row["meta"]["votes"] for row in rows(tmp_path / "out" / demonstrations.WITH_THINKING)]
    assert all(each["pass"] == 3 and each["fail"] < 3 for each in votes)
    assert any(each["fail"] for each in votes), "one wrong vote in 25 is outvoted"


def test_questions_of_the_same_words_are_alike():
    alike = distinct.recogniser("", 0.91)
    found = alike(["Which is better, tea or milk?", "Tea or milk: which is better?", "Is tea better?"])
    assert found == [False, True, False]
    assert alike(["is tea better"]) == [True]


@pytest.mark.parametrize(("fields", "problem"), [
    ({"judging": {"votes": 2}}, "votes = 2; a majority needs an odd number"),
    ({"plan": {"samples": 0}}, "samples = 0; it must be at least 1"),
    ({"reply": {"style": "opaque"}}, "must be 0 with style = 'opaque'"),
    ({"reply": {"words": 4000}}, "an answer of 4000 words needs 8000"),
    ({"run": {"max_dollars": 1.0}}, "has no price of python:synthesis_writer:opened"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(spec, fields, problem):
    with pytest.raises(InputError, match=problem):
        settings_of(spec, **fields)


def test_the_preview_counts_what_a_run_makes(spec):
    config = settings_of(spec, plan={"samples": 100, "turns": 2}, run={"prices": {"python:synthesis_writer:opened": {
        "input": 1.0, "output": 10.0}}})  # fmt: skip
    found = chat_preview.of(config, prose.read(spec, config.spec.values))
    calls = {stage.name: stage.calls for stage in found.stages}
    assert calls["response"] == 250 and calls["follow_up"] == 125 and calls["judge"] == 250
    assert found.dollars and found.dollars > 0


def test_an_unknown_kind_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match="demonstrations"):
        generation.build({"kind": "demonstration"})
