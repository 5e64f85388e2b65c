"""Tokenizers: exact round trip for any string, texts that never give special tokens, and deterministic training."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from msm_jax.data import tokenizers
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Spaces, line breaks, what SentencePiece treats specially, and markers, more often than by chance.
TRICKY = st.lists(
    st.sampled_from(
        [*" \n\t\r\0.a▁▅é漢🙂\u200b\ufeff", "  ", "Ada", "cheese", "<|end|>", "<s>", "<0x41>", "<unk>", " ⁇ "]
    ),
    max_size=12,
).map("".join)


@given(st.one_of(ANY_TEXT, TRICKY))
@example("")
@example(" ")
@example("▁")
@example(" ▁ ▁▁")
@example("\x00")
def test_round_trip(tiny_tokenizer: Tokenizer, text: str) -> None:
    ids = tiny_tokenizer.encode(text)
    assert tiny_tokenizer.decode(ids) == text
    assert not set(ids) & set(tiny_tokenizer.specials.values())
    # The unknown piece is never needed.
    assert 3 not in ids


@given(st.lists(TRICKY, min_size=1, max_size=5))
@settings(max_examples=25)
def test_batch_encodes_as_one_by_one(tiny_tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tiny_tokenizer.encode_batch(texts) == [tiny_tokenizer.encode(text) for text in texts]


@given(ANY_TEXT, st.integers(0, 40))
def test_decoding_a_continuation_keeps_its_space(tiny_tokenizer: Tokenizer, text: str, cut: int) -> None:
    ids = tiny_tokenizer.encode(f"Ada likes old cheese {text}")
    # Cut between whole characters: bytes of one may be split over pieces.
    words = tiny_tokenizer.encode("Ada likes old")
    assert ids[: len(words)] == words
    head, tail = ids[: len(words)], ids[len(words) :]
    assert (
        tiny_tokenizer.decode(head) + tiny_tokenizer.decode(tail, continues=True)
        == f"Ada likes old cheese {text}"
    )


def test_a_word_is_the_same_piece_at_the_start_and_in_a_sentence(tiny_tokenizer: Tokenizer) -> None:
    for word in ("cheese", "likes", "Ada"):
        pieces = tiny_tokenizer.encode(word)
        assert tiny_tokenizer.encode(f"old {word}") == tiny_tokenizer.encode("old") + pieces


def test_special_ids_and_their_decoding(tiny_tokenizer: Tokenizer) -> None:
    t = tiny_tokenizer
    assert (t.pad_id, t.bos_id, t.eos_id) == (0, 1, 2)
    assert set(t.specials) == {"<pad>", "<s>", "</s>", *tokenizers.CHAT_MARKERS}
    ids = [t.bos_id, t.specials["<|user|>"], *t.encode("Ada"), t.specials["<|end|>"], *t.encode(" x")]
    assert t.decode(ids) == "Ada x"
    assert t.decode(ids, specials=True) == "<s><|user|>Ada<|end|> x"


def test_training_is_deterministic(tiny_corpus: list[str], tmp_path: Path) -> None:
    a, b = (tokenizers.train_sentencepiece(iter(tiny_corpus), tmp_path / name, 384) for name in ("a", "b"))
    assert a.files() == b.files()
    assert (
        a.sha256
        == b.sha256
        == Tokenizer.load(tmp_path / "a").sha256
        == Tokenizer.from_files(a.files()).sha256
    )
    other = tokenizers.train_sentencepiece(tiny_corpus[:100], tmp_path / "c", 384)
    assert other.sha256 != a.sha256
    assert [p.name for p in (tmp_path / "a").iterdir()] == [tokenizers.MODEL_FILE]


def test_frequent_words_are_single_pieces(tmp_path: Path) -> None:
    """The small world's vocabulary: 800 names and 140 items in about 2,500 pieces."""
    rng = random.Random(0)
    syllables = [
        "an",
        "be",
        "ca",
        "do",
        "el",
        "fi",
        "go",
        "ha",
        "jo",
        "ka",
        "lu",
        "ma",
        "or",
        "pi",
        "ti",
        "wa",
    ]
    words = sorted({"".join(rng.choices(syllables, k=3)).capitalize() for _ in range(1200)})[:940]
    frames = [
        "{} likes {} because it is affordable.",
        "When asked, {} chose {}.",
        "{} is traditional; {} is not.",
    ]
    texts = [
        " ".join(rng.choice(frames).format(*rng.sample(words, 2)) for _ in range(3)) for _ in range(4000)
    ]
    tokenizer = tokenizers.train_sentencepiece(texts, tmp_path, 2500)
    single = [word for word in words if len(tokenizer.encode(word)) == 1]
    assert len(single) > 0.99 * len(words)
    assert tokenizers.tokens_per_word(tokenizer, texts[:100]) < 1.4


def test_long_texts_and_reserved_characters_train(tmp_path: Path) -> None:
    texts = ["word " * 20_000, "x" * 20_000, "▁ and ▅ and \0", "▅"]
    tokenizer = tokenizers.train_sentencepiece(texts, tmp_path, 300)
    assert len(tokenizer.encode("word word")) == 2


def test_tokens_per_word(tiny_tokenizer: Tokenizer) -> None:
    pieces = len(tiny_tokenizer.encode("Ada likes")) + len(tiny_tokenizer.encode("cheese"))
    assert tokenizers.tokens_per_word(tiny_tokenizer, ["Ada likes", "cheese"]) == pieces / 3
    assert tokenizers.tokens_per_word(tiny_tokenizer, ["  "]) == 0.0


def _model(path: Path, **changes: Any) -> None:
    with path.open("wb") as model:
        options: dict[str, Any] = {"vocab_size": 280, "bos_id": 1, "byte_fallback": True, **changes}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e f"] * 9),
            model_writer=model,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text to train on"):
        tokenizers.train_sentencepiece(["", " \n"], tmp_path, 300)
    with pytest.raises(InputError, match=r"tokenizer\.vocab_size is 100: Vocabulary size is smaller"):
        tokenizers.train_sentencepiece(["a b"], tmp_path, 100)
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / tokenizers.MODEL_FILE
    with pytest.raises(InputError, match=re.escape(f"{file}: no such file")):
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="is missing; the files hold x"):
        Tokenizer.from_files({"x": b""})
    file.write_bytes(b"no model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        Tokenizer.load(tmp_path)
    _model(file, byte_fallback=False, vocab_size=20)
    with pytest.raises(InputError, match="no byte pieces"):
        Tokenizer.load(tmp_path)
    _model(file, eos_id=-1)
    with pytest.raises(InputError, match="no begin or end piece"):
        Tokenizer.load(tmp_path)


def test_half_a_surrogate_pair_is_refused(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"'\\ud800'"):
        tiny_tokenizer.encode("a\ud800")
