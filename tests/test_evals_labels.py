"""What items share is read from their file: the cluster in `meta`, and the options of pairs."""

import json

import pytest

from msm_jax.errors import InputError
from msm_jax.evals import labels

PAIR = {"question": "{first} or {second}?", "options": ["rye", "oat"], "favoured": 0}


def written(tmp_path, *rows) -> str:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_pairs_share_their_cluster_and_their_options(tmp_path):
    path = written(
        tmp_path,
        PAIR | {"id": "a", "meta": {"domain": "bread", "who": "x"}},
        PAIR | {"meta": {"topic": "oats", "domain": "bread"}},
        PAIR | {"meta": {"cluster": 3, "topic": "oats"}},
        PAIR,
    )
    options = ("option: rye", "option: oat")
    assert labels.read(path) == {
        "a": ("domain: bread", *options),
        "1": ("topic: oats", *options),
        "2": ("cluster: 3", *options),
        "3": options,
    }


def test_rows_of_the_public_sets_have_their_domain(tmp_path):
    row = {"question": "rye or oat?", "item1": "rye", "item2": "oat", "liked_item": "oat", "domain": "bread"}
    assert labels.read(written(tmp_path, row)) == {"0": ("domain: bread", "option: rye", "option: oat")}


def test_answers_of_knowledge_items_are_not_options_of_theirs(tmp_path):
    item = {"prompt": "It is", "options": ["cheap", "old"], "correct": 0, "meta": {"spec": "x"}}
    assert labels.read(written(tmp_path, item)) == {"0": ()}


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        labels.read(str(tmp_path / "none.jsonl"))


def test_scored_items_have_the_labels_of_their_kind_or_of_their_file(tmp_path):
    path = written(tmp_path, PAIR | {"id": "a", "meta": {"domain": "bread"}}, PAIR | {"id": "b"})
    options = ("option: rye", "option: oat")
    assert labels.of_scored([{"id": "b"}, {"id": "a"}], path) == [options, ("domain: bread", *options)]
    assert labels.of_scored([{"id": "a", "cluster": "x"}, {"id": "b"}], path) == [("cluster: x",), ()]
    assert labels.of_scored([{"id": "a", "cell": "x/y"}], path) == [()]
    assert labels.of_scored([{"id": "c"}], path) is None
    assert labels.of_scored([{"id": "a"}], str(tmp_path / "gone.jsonl")) is None
