"""The interface of tokenizers: encode without parsing special tokens, decode exactly, and name the special tokens.

The files decide the kind: `tokenizer.json` is read by the `tokenizers` package, as in Hugging Face checkpoints;
otherwise `tokenizer.model` is a SentencePiece model, as `train_sentencepiece` writes it.
"""

from __future__ import annotations

import abc
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msm_jax.errors import InputError
from msm_jax.foundation import hashing, storage

SENTENCEPIECE_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
FILES = (SENTENCEPIECE_FILE, JSON_FILE, CONFIG_FILE, SPECIALS_FILE)


class Tokenizer(abc.ABC):
    """A map from text to ids and back.

    Attributes:
      vocab_size: the number of ids; the embedding of a model may have more rows (padding), which are never sampled.
      bos_id: the token at the start of a text; None if texts have none (Qwen, SmolLM2), even if the files name a
        `bos_token`.
      eos_id: the end token.
      document_end_id: the token at the end of a document: the end-of-text token of pretraining if there is one, else
        `eos_id`.
      pad_id: the padding token; 0 if there is none.
      specials: the ids of the special tokens, by their text.
      named_specials: the special tokens by "bos_token", "eos_token", ..., which a chat template may write.
      marker_pattern: matches the special tokens in a rendered chat, with white space that belongs to them.
      chats_begin_with_bos: whether the begin token is put before a chat whose template does not write it.
      sha256: the hash of the file that holds the vocabulary, by `files_sha256`.
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
        """Reads the tokenizer files of a directory.

        Raises:
          InputError: there is no tokenizer, or as for `from_files`.
        """
        if storage.is_url(directory):
            raise InputError(f"{directory}: a tokenizer is read from a directory of this machine; copy it there")
        folder = Path(directory)
        files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
        if not files.keys() & {SENTENCEPIECE_FILE, JSON_FILE}:
            raise InputError(
                f"{folder / SENTENCEPIECE_FILE}: no such file, nor {JSON_FILE}; give the directory of a tokenizer"
            )
        return cls.from_files(files, f"{folder}/")

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], where: str = "") -> Tokenizer:
        """Opens the tokenizer in `files`, {name: bytes}; ignores other names. `where` precedes names in errors.

        Raises:
          InputError: there is no tokenizer among the files, or it cannot encode every text.
        """
        # The modules of the kinds import this class, so they are imported only here.
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
        """Returns {file name: bytes} that `from_files` needs."""

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, without begin or end token; special tokens that it spells are ordinary text.

        Raises:
          InputError: the text holds half of a surrogate pair.
        """
        return self.encode_batch([text])[0]

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns `encode` of each text; uses all cores."""

    @abc.abstractmethod
    def encode_parts(self, parts: Sequence[str], *, begins: bool) -> list[list[int]]:
        """Returns the ids of each part of one text; those of a part do not depend on the parts after it.

        Args:
          parts: consecutive parts of the text.
          begins: whether nothing precedes the text, not even a special token.
        """

    @abc.abstractmethod
    def decode(self, ids: Iterable[int], *, specials: bool = False, continues: bool = False) -> str:
        """Returns the text of `ids`.

        Args:
          ids: token ids; those between two special tokens are decoded on their own, as they were encoded.
          specials: whether special tokens are written as their text; otherwise they are left out.
          continues: whether other text precedes the ids, so that a space at their start is kept.
        """

    @property
    def begin_ids(self) -> list[int]:
        """Returns the ids before those of a text: the begin token or nothing."""
        return [] if self.bos_id is None else [self.bos_id]

    def document(self, ids: Sequence[int]) -> list[int]:
        """Returns the ids of a document from those of its text: adds the begin token, if any, and the end."""
        return [*self.begin_ids, *ids, self.document_end_id]

    def text_prompt(self, text: str) -> list[int]:
        """Returns the ids of a plain text that a model continues, after the begin token if there is one.

        For an empty text and no begin token it returns the id after which a new document begins.
        """
        return [*self.begin_ids, *self.encode(text)] or [self.document_end_id]


def checked(text: str) -> str:
    """Returns the text; raises `InputError` if it holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InputError(f"text holds half of a surrogate pair, {text[e.start]!a}; remove it") from None
    return text


def files_sha256(files: Mapping[str, bytes]) -> str:
    """Returns the SHA-256 over names and bytes, which does not depend on the order of `files`."""
    hashes = (hashing.sha256(part) for name in sorted(files) for part in (name.encode(), files[name]))
    return hashing.sha256(bytes.fromhex("".join(hashes)))


def tokens_per_word(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Returns the mean number of ids per word (split at white space) over `texts`, 0.0 if there are no words."""
    texts = list(texts)
    words = sum(len(text.split()) for text in texts)
    return sum(map(len, tokenizer.encode_batch(texts))) / words if words else 0.0
