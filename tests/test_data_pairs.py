"""Pairs: the forms of records, their ids and loss masks, rows that never split one, and what is refused."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loader_data import TEMPLATE
from loader_data import same as same_batch

from msm_jax.data import pairs, sources
from msm_jax.data.config import ChatConfig, DataConfig, SourceConfig
from msm_jax.data.encoding import encode_chat
from msm_jax.data.loader import Loader
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.show_batch import rows_as_text


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# One pair in the shapes that TRL and this package read.
FORMS: dict[str, dict[str, Any]] = {
    "ours": {"messages": [user("hi")], "chosen": "yes", "rejected": "no", "meta": {"a": 1}},
    "prompt": {"prompt": [user("hi")], "chosen": [said("yes")], "rejected": [said("no")]},
    "repeated": {"prompt": [user("hi")], "chosen": [user("hi"), said("yes")], "rejected": [user("hi"), said("no")]},
    "implicit": {"chosen": [user("hi"), said("yes")], "rejected": [user("hi"), said("no")]},
    "text_and_whole": {"prompt": "hi", "chosen": [user("hi"), said("yes")], "rejected": [user("hi"), said("no")]},
}
SHORT = pairs.Pair((user("hi"),), (said("yes"),), (said("no"),))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_record_is_the_same_pair(form: str, tmp_path: Path) -> None:
    assert pairs.read(FORMS[form], "x:1") == SHORT
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([FORMS[form], FORMS[form]]), file)
    assert list(sources.iter_pairs(str(file))) == [(f"{file}:1", SHORT), (f"{file}:2", SHORT)]


def test_the_prompt_of_whole_conversations_is_their_common_beginning() -> None:
    start = [{"role": "system", "content": "be brief"}, user("a"), said("b"), user("c")]
    pair = pairs.read({"chosen": [*start, said("d")], "rejected": [*start, said("e"), user("f"), said("g")]}, "x:1")
    assert pair.prompt == tuple(start)
    assert pair.chosen == (said("d"),)
    assert pair.rejected == (said("e"), user("f"), said("g"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [user("hi")], "chosen": "yes"}, 'field "rejected" is missing'),
        ({"messages": [user("hi")], "rejected": "yes"}, 'field "chosen" is missing'),
        ({"chosen": "yes", "rejected": "no"}, 'field "messages" is missing'),
        ({"messages": [user("hi")], "chosen": "yes", "rejected": "yes"}, 'field "rejected" is the same as "chosen"'),
        ({"messages": [user("hi")], "chosen": " ", "rejected": "yes"}, 'field "chosen" is empty'),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, 'field "rejected" is empty'),
        ({"messages": [user("hi"), said("a")], "chosen": "b", "rejected": "c"}, 'field "messages" ends with'),
        (
            {"messages": [user("hi")], "chosen": [user("ho"), said("a")], "rejected": "b"},
            'field "chosen" is a conversation with another prompt',
        ),
        (
            {"chosen": [user("hi"), said("a")], "rejected": [user("ho"), said("b")]},
            'fields "chosen" and "rejected" have different prompts',
        ),
        ({"chosen": [user("hi"), said("a")], "rejected": [user("hi")]}, 'field "rejected" is empty after the prompt'),
        ({"messages": [user("hi")], "prompt": "hi", "chosen": "a", "rejected": "b"}, "are both given"),
    ],
)
def test_a_bad_pair_is_one_line_with_file_line_and_field(
    record: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(FORMS["ours"]) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(InputError) as error:
        list(sources.iter_pairs(str(file)))
    assert str(error.value).startswith(f"{file}:2: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_loss_is_on_the_answer_alone(tiny_tokenizer: Tokenizer) -> None:
    messages = (user("a"), said("old"), user("b"))
    pair = pairs.Pair(messages, (said("new"),), (said("other"),))
    for (ids, mask), answer in zip(
        pairs.encode(pair, tiny_tokenizer, TEMPLATE, ChatConfig()), (pair.chosen, pair.rejected), strict=True
    ):
        whole, both = encode_chat(tiny_tokenizer, TEMPLATE, [*messages, *answer])
        assert ids == whole
        first = len(both) - both[::-1].index(False)
        assert mask == [False] * first + [True] * (len(ids) - first)
        assert tiny_tokenizer.decode(ids[first:]) == answer[0]["content"]


def test_a_text_is_continued_and_ended(tiny_tokenizer: Tokenizer) -> None:
    pair = pairs.Pair("The cat sat on", " the mat.", " a hat.")
    for (ids, mask), answer in zip(
        pairs.encode(pair, tiny_tokenizer, None, ChatConfig()), (pair.chosen, pair.rejected), strict=True
    ):
        assert ids == tiny_tokenizer.document(tiny_tokenizer.encode(f"{pair.prompt}{answer}"))
        assert mask == sorted(mask)
        carried = tiny_tokenizer.decode([i for i, loss in zip(ids, mask, strict=True) if loss], continues=True)
        assert carried.endswith(str(answer))


@pytest.fixture
def config(tiny_corpus: list[str], tmp_path: Path) -> DataConfig:
    rng, words = random.Random(0), " ".join(tiny_corpus).split()
    with (tmp_path / "pairs.jsonl").open("w") as f:
        for _ in range(60):
            prompt, chosen, rejected = (" ".join(rng.choices(words, k=rng.randint(1, 5))) for _ in range(3))
            f.write(json.dumps({"messages": [user(prompt)], "chosen": chosen, "rejected": rejected}) + "\n")
    return DataConfig(96, {"pairs": SourceConfig(str(tmp_path / "pairs.jsonl"), "pairs", 0.1)}, {"pairs": 1.0})


def test_a_pair_is_two_segments_of_one_row(config: DataConfig, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    loader = Loader(config, tiny_tokenizer, TEMPLATE, 4, 3, tmp_path)
    expected = {
        where: pairs.encode(pair, tiny_tokenizer, TEMPLATE, ChatConfig())
        for where, pair in sources.iter_pairs(config.sources["pairs"].path)
    }
    seen = []
    found = loader.describe(0)["sources"]["pairs"]
    for batch in [*loader.epoch_batches("pairs"), *loader.holdout_batches("pairs", 100)]:
        for row in range(4):
            assert batch.segment_ids[row].max() % 2 == 0
            for number in range(1, int(batch.segment_ids[row].max()) + 1):
                here = np.flatnonzero(batch.segment_ids[row] == number)
                assert (np.diff(here) == 1).all()
                ids = [batch.tokens[row, here[0]].item(), *batch.targets[row, here].tolist()]
                seen.append((ids, [False, *batch.loss_mask[row, here].tolist()]))
    answers = [each for pair in zip(seen[::2], seen[1::2], strict=True) for each in [pair]]
    assert sorted(answers) == sorted(expected.values())
    assert found["documents"] + found["held_out_documents"] == 60
    names = [name for step in range(3) for row in loader.segments_of(step) for name in row]
    assert names[::2] == names[1::2]


def test_rows_of_says_which_rows_a_batch_has(config: DataConfig, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    loader = Loader(config, tiny_tokenizer, TEMPLATE, 4, 3, tmp_path)
    whole = np.concatenate([batch.tokens for batch in loader.epoch_batches("pairs")])
    _, rows = loader.rows_of(5, 1, 2)
    np.testing.assert_array_equal(whole[rows], loader.host_batch(5, 1, 2).tokens)
    assert same_batch(loader.batch(5), Loader(config, tiny_tokenizer, TEMPLATE, 4, 3, tmp_path).batch(5))


def test_a_pair_longer_than_a_row_is_refused_or_dropped(
    config: DataConfig, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    short = dataclasses.replace(config, seq_len=40)
    message = r'pairs.jsonl:\d+: fields "chosen" and "rejected" with their prompts take \d+ slots of 40'
    with pytest.raises(InputError, match=message):
        Loader(short, tiny_tokenizer, TEMPLATE, 4, 3, tmp_path)
    dropping = dataclasses.replace(config.sources["pairs"], too_long="drop")
    loader = Loader(dataclasses.replace(short, sources={"pairs": dropping}), tiny_tokenizer, TEMPLATE, 4, 3, tmp_path)
    found = loader.describe(0)["sources"]["pairs"]
    assert found["dropped_documents"] > 0
    assert found["documents"] + found["held_out_documents"] + found["dropped_documents"] == 60


def test_a_bad_pair_can_be_skipped(config: DataConfig, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    with (tmp_path / "pairs.jsonl").open("a") as f:
        f.write(json.dumps({"messages": [user("hi")], "chosen": "same", "rejected": "same"}) + "\n")
    skipping = dataclasses.replace(config.sources["pairs"], malformed="skip")
    loader = Loader(dataclasses.replace(config, sources={"pairs": skipping}), tiny_tokenizer, TEMPLATE, 4, 3, tmp_path)
    assert loader.left_out == {"pairs": {"malformed": 1}}
    with pytest.raises(InputError, match=r'pairs.jsonl:61: field "rejected" is the same as "chosen"'):
        Loader(config, tiny_tokenizer, TEMPLATE, 4, 3, tmp_path)


def test_show_batch_names_the_answers(config: DataConfig, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    loader = Loader(config, tiny_tokenizer, TEMPLATE, 4, 3, tmp_path)
    lines = [text.plain for text in rows_as_text(loader, tiny_tokenizer, 0, 1, coloured=False)]
    headings = [line for line in lines if line.startswith("  ")]
    assert headings[0].endswith(" (chosen)")
    assert headings[1].endswith(" (rejected)")
    assert all("<|assistant|>[[" in line and line.endswith("<|end|>]]") for line in lines[2::2])
