"""What every tokenizer does, whatever its files: encode without parsing specials, decode exactly, know its specials.

The kind follows from the files: `tokenizer.json` (the `tokenizers` package, as Hugging Face checkpoints carry it)
or else `tokenizer.model` (SentencePiece, as `train_sentencepiece` writes it).
"""

from __future__ import annotations

import abc
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msm_jax.errors import InputError
from msm_jax.foundation import hashing

SENTENCEPIECE_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
FILES = (SENTENCEPIECE_FILE, JSON_FILE, CONFIG_FILE, SPECIALS_FILE)


class Tokenizer(abc.ABC):
    """Text to ids and back.

    Attributes:
      vocab_size: number of ids; a model may have more rows (padding), which are never drawn.
      bos_id: what texts of this tokenizer begin with; None where they begin with none (Qwen, SmolLM2), even if a
        piece bears the name.
      eos_id: the end token.
      document_end_id: what ends a document: the end-of-text token of pretraining where there is one, else `eos_id`.
      pad_id: 0 where there is no pad token.
      specials: special piece, as text -> its id.
      named_specials: "bos_token", "eos_token", ... -> piece, what a chat template is told.
      marker_pattern: matches the specials in a rendered chat, with white space that belongs to them.
      chats_begin_with_bos: the begin token goes before a chat whose template writes none.
      sha256: of the file that holds the vocabulary, by `files_sha256`.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int
    document_end_id: int
    pad_id: int
    specials: dict[str, int]
    named_specials: dict[str, str]
    marker_pattern: re.Pattern[str]
    chats_begin_with_bos: bool
    sha256: str

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Tokenizer:
        """Reads the tokenizer files of a directory; InputError where there is none."""
        folder = Path(directory)
        files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
        if not files.keys() & {SENTENCEPIECE_FILE, JSON_FILE}:
            raise InputError(
                f"{folder / SENTENCEPIECE_FILE}: no such file, nor {JSON_FILE}; give the directory of a tokenizer"
            )
        return cls.from_files(files, f"{folder}/")

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], where: str = "") -> Tokenizer:
        """The tokenizer of `files()`; other names in `files` are ignored. `where` goes before names in errors.

        Raises:
          InputError: no tokenizer among the files, or one that cannot spell every text.
        """
        # The kinds build on this class, so they are imported when it is asked for one.
        from msm_jax.data.tokenizers import json_kind, sentencepiece_kind

        if JSON_FILE in files:
            return json_kind.JsonTokenizer(files, where)
        if SENTENCEPIECE_FILE not in files:
            names = ", ".join(sorted(files)) or "nothing"
            raise InputError(f"{where}{JSON_FILE} or {SENTENCEPIECE_FILE} is missing; the files hold {names}")
        if CONFIG_FILE in files:
            raise InputError(
                f"{where}{SENTENCEPIECE_FILE} has a {CONFIG_FILE} but no {JSON_FILE} beside it; load and save the "
                "tokenizer once with transformers, which writes it"
            )
        return sentencepiece_kind.SentencePieceTokenizer(files[SENTENCEPIECE_FILE], where)

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """File name -> bytes: all that `from_files` needs."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without begin or end token; specials spelt in it are encoded as ordinary text.

        Raises:
          InputError: the text holds half of a surrogate pair.
        """
        return self.encode_batch([text])[0]

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""

    @abc.abstractmethod
    def encode_parts(self, parts: Sequence[str], *, begins: bool) -> list[list[int]]:
        """The ids of each part of one text, where those of the first parts never depend on the parts after them.

        Args:
          parts: what makes up the text. begins: nothing stands before it, not even a special.
        """

    @abc.abstractmethod
    def decode(self, ids: Iterable[int], *, specials: bool = False, continues: bool = False) -> str:
        """The text of `ids`.

        Args:
          ids: token ids; what stands between two specials is decoded on its own, as it was encoded.
          specials: write specials as their text instead of dropping them.
          continues: the ids go on from text before them, so that a space at their start is kept.
        """

    @property
    def begin_ids(self) -> list[int]:
        """What stands before the ids of a text: the begin token or nothing."""
        return [] if self.bos_id is None else [self.bos_id]

    def document(self, ids: Sequence[int]) -> list[int]:
        """The ids of a document whose text has `ids`: with its begin token, if any, and its end."""
        return [*self.begin_ids, *ids, self.document_end_id]


def checked(text: str) -> str:
    """The text, refused where it holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InputError(f"text holds half of a surrogate pair, {text[e.start]!a}; remove it") from None
    return text


def files_sha256(files: Mapping[str, bytes]) -> str:
    """sha256 over names and bytes, independent of the mapping's order."""
    hashes = (hashing.sha256(part) for name in sorted(files) for part in (name.encode(), files[name]))
    return hashing.sha256(bytes.fromhex("".join(hashes)))


def tokens_per_word(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Mean number of ids per word (split at white space) over `texts`; 0 where there is no word."""
    texts = list(texts)
    words = sum(len(text.split()) for text in texts)
    return sum(map(len, tokenizer.encode_batch(texts))) / words if words else 0.0
