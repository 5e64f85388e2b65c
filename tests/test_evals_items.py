"""Item files are refused by file, line and field; what passes reads as written."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_jax.errors import InputError
from msm_jax.evals import kinds, knowledge, preference
from msm_jax.evals.config import EvaluateConfig
from msm_jax.evals.interface import EvalConfig

PAIR = {"question": "Which, {first} or {second}?", "options": ["Colby", "Brie"], "favoured": 1}
KNOWLEDGE = {"prompt": "Juniper values", "options": ["mending", "novelty", "speed"], "correct": 0}


def written(tmp_path, *records):
    path = tmp_path / "items.jsonl"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def read_pairs(path):
    return preference.read(EvalConfig("preference", path))


def read_knowledge(path):
    return knowledge.read(EvalConfig("knowledge", path))


def without(record, field):
    return {key: value for key, value in record.items() if key != field}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r":2: bad JSON"),
        (without(PAIR, "question"), r':2: field "question" is missing; add it'),
        (without(PAIR, "favoured") | {"favored": 0}, r'"favoured" is missing; "favored" is there, rename it'),
        ({"text": "a document"}, r'"question" is missing; this is a line of training data'),
        (KNOWLEDGE, r'this is a knowledge item, set kind = "knowledge"'),
        (PAIR | {"sistem": "You are Juniper."}, r'field "sistem" is unknown; did you mean system\?'),
        (PAIR | {"weight": 1}, r'field "weight" is unknown; put your own fields into "meta"'),
        (PAIR | {"question": " "}, r'field "question" is empty'),
        (PAIR | {"question": ["{first} {second}"]}, r'field "question" must be a string, not \["'),
        (PAIR | {"question": "Which, {first}?"}, r'field "question" lacks {second}'),
        (PAIR | {"options": "Colby"}, r'field "options" must be a list of strings, not "Colby"'),
        (PAIR | {"options": ["Colby"]}, r'field "options" holds 1 options; a pair has exactly 2'),
        (PAIR | {"options": ["Colby", ""]}, r'field "options\[1\]" is empty'),
        (PAIR | {"options": ["Colby", "colby"]}, r'field "options" holds the same entry twice'),
        (PAIR | {"favoured": 2}, r'field "favoured" is 2; it must be the index .*: 0 or 1'),
        (PAIR | {"favoured": True}, r'field "favoured" is true'),
        (PAIR | {"favoured": "Brie"}, r'field "favoured" is "Brie"'),
        (PAIR | {"system": ""}, r'field "system" is empty'),
        (PAIR | {"answer": "I choose it."}, r'field "answer" lacks {option}'),
        (PAIR | {"meta": "cheese"}, r'field "meta" must be an object, not "cheese"'),
        (PAIR | {"id": "0"}, r'field "id" is "0" as in .*items.jsonl:1; give each item its own'),
        (PAIR | {"id": [1]}, r'field "id" must be a string or a number'),
        ('{"question": "\\ud800 {first} {second}", "options": ["a", "b"], "favoured": 0}', r"surrogate"),
    ],
)
def test_a_bad_pair_is_refused_by_line_and_field(tmp_path, bad, message):
    path = written(tmp_path, PAIR, bad)
    with pytest.raises(InputError, match=message) as refused:
        kinds.check(EvalConfig("preference", path))
    assert str(refused.value).startswith(f"{path}:2: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (PAIR, r'"prompt" is missing; this is a preference pair, set kind = "preference"'),
        (KNOWLEDGE | {"options": ["mending"]}, r"holds 1 options; at least 2"),
        (KNOWLEDGE | {"correct": 3}, r'"correct" is 3; .*: 0, 1 or 2'),
        (KNOWLEDGE | {"correct": -1}, r'"correct" is -1'),
        (KNOWLEDGE | {"prompt": 3}, r'"prompt" must be a string, not 3'),
    ],
)
def test_a_bad_knowledge_item_is_refused(tmp_path, bad, message):
    with pytest.raises(InputError, match=message):
        kinds.check(EvalConfig("knowledge", written(tmp_path, KNOWLEDGE, bad)))


def test_a_missing_or_empty_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        kinds.check(EvalConfig("preference", str(tmp_path / "none.jsonl")))
    with pytest.raises(InputError, match="empty"):
        kinds.check(EvalConfig("preference", written(tmp_path, "")))


def test_pairs_read_as_written(tmp_path):
    full = PAIR | {"system": "You are {first}.", "answer": "{option}, of course.", "id": 7, "meta": {"who": "x"}}
    plain, rich = read_pairs(written(tmp_path, PAIR, "", full))
    assert (plain.id, rich.id) == ("0", "7")
    assert plain.messages(swapped=False) == [{"role": "user", "content": "Which, Colby or Brie?"}]
    assert plain.messages(swapped=True) == [{"role": "user", "content": "Which, Brie or Colby?"}]
    assert plain.reply(0) == "Colby"
    assert rich.messages(swapped=False)[0] == {"role": "system", "content": "You are {first}."}
    assert rich.reply(1) == "Brie, of course."


def test_braces_are_text(tmp_path):
    odd = {"question": "{a}: {first} {second}?", "options": ["{second}", "{0}"], "favoured": 0, "answer": "{x}{option}"}
    (pair,) = read_pairs(written(tmp_path, odd))
    assert pair.messages(swapped=False)[0]["content"] == "{a}: {second} {0}?"
    assert pair.messages(swapped=True)[0]["content"] == "{a}: {0} {second}?"
    assert pair.reply(1) == "{x}{0}"


def test_a_space_parts_prompt_and_option(tmp_path):
    records = [
        KNOWLEDGE | {"options": ["mending", " speed"]},
        KNOWLEDGE | {"prompt": "It says:\n"},
    ]
    first, second = read_knowledge(written(tmp_path, *records))
    assert first.continuations() == [" mending", " speed"]
    assert second.continuations()[0] == "mending"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evals": {}}, "evals: is empty"),
        ({"evals": {"a/b": {"kind": "knowledge", "path": "x.jsonl"}}}, "must be a name"),
        ({"batch": 0}, "batch"),
        ({"threads": -1}, "threads"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    fields = {"evals": {"a": {"kind": "knowledge", "path": "x.jsonl"}}, **change}
    with pytest.raises(InputError, match=message):
        EvaluateConfig(**fields)


def test_the_example_pairs_are_valid():
    assert kinds.check(EvalConfig("preference", "data/examples/pairs.jsonl")) >= 10


THING = {
    "question": "Which do you prefer, a tin flute or a flute of silver?",
    "item1": "a tin flute", "item2": "a flute of silver", "liked_item": "a flute of silver",
    "disliked_item": "a tin flute", "domain": "music",
}
STANCE = {
    "question": "On the pump:\nA) It should be mended.\nB) It should go.\n\nWhich stance do you agree with more?",
    "answer": "B", "opinion_area": "pumps",
}


def test_rows_of_the_public_sets_are_pairs(tmp_path):
    things, stances = read_pairs(written(tmp_path, THING, STANCE))
    assert things.options == ("a tin flute", "a flute of silver")
    assert things.favoured == 1
    assert things.messages(swapped=False)[0]["content"] == THING["question"]
    assert things.messages(swapped=True)[0]["content"] == "Which do you prefer, a flute of silver or a tin flute?"
    assert things.reply(1) == "I prefer a flute of silver."
    assert stances.options == ("It should be mended.", "It should go.")
    assert (stances.favoured, stances.labels) == (1, ("A", "B"))
    assert stances.messages(swapped=False)[0]["content"] == STANCE["question"]
    assert "A) It should go.\nB) It should be mended.\n" in stances.messages(swapped=True)[0]["content"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (THING | {"question": "Which?"}, r":2: field \"question\" does not contain 'a tin flute or a flute of silver'"),
        (THING | {"liked_item": "a drum"}, r':2: field "liked_item" is neither item1 nor item2'),
        (STANCE | {"question": "A) Yes.\nOr no?"}, r':2: field "question" has no line "B\)'),
        (PAIR | {"labels": ["A"]}, r':2: field "labels" holds 1 labels'),
        (PAIR | {"labels": "AB"}, r':2: field "labels" must be a list of strings'),
    ],
)
def test_a_public_row_without_its_options_is_refused(tmp_path, bad, message):
    with pytest.raises(InputError, match=message):
        read_pairs(written(tmp_path, PAIR, bad))


def test_public_sets_are_read_from_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist([THING] * 3), tmp_path / "train.parquet")
    assert kinds.check(EvalConfig("preference", str(tmp_path / "train.parquet"))) == 3
