"""SentencePiece tokenizers: training on a corpus, encoding without parsing special tokens, and exact decoding.

`decode(encode(x)) == x` for every string. A text is encoded as if a space preceded it, so that a word at the start of a
text has the same piece as within a sentence; a word right after a newline, quote or bracket has another. Encoding never
gives the id of a control piece (`<s>`, `<|end|>`, ...): a text that spells one is ordinary text.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from msm_jax.data.tokenizers.interface import SENTENCEPIECE_FILE, Tokenizer, checked, files_sha256
from msm_jax.errors import InputError
from msm_jax.foundation import storage

MODEL_FILE = SENTENCEPIECE_FILE
CHAT_MARKERS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

# SentencePiece uses this character for a space, so an occurrence in a text is encoded by its bytes.
_SPACE = "\u2581"
# SentencePiece's trainer skips sentences that contain this character.
_RESERVED = "\u2585"
# Characters; the trainer's time grows with the square of the longest sentence.
_MAX_SENTENCE = 4000


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with byte fallback."""

    chats_begin_with_bos = True

    def __init__(self, model: bytes, where: str = ""):
        """Opens a serialised SentencePiece model.

        Raises:
          InputError: `model` is not a SentencePiece model, or has no begin, end or byte pieces.
        """
        self._model = model
        name = f"{where}{MODEL_FILE}"
        try:
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise InputError(f"{name}: not a SentencePiece model; train one or copy it again") from None
        sp = self._sp
        self.vocab_size = sp.vocab_size()
        if sp.bos_id() < 0 or sp.eos_id() < 0:
            raise InputError(f"{name}: has no begin or end piece; train it with bos_id and eos_id")
        if not sp.is_byte(sp.piece_to_id("<0x00>")):
            raise InputError(f"{name}: has no byte pieces; train it with byte_fallback")
        self.bos_id = sp.bos_id()
        self.eos_id = self.document_end_id = sp.eos_id()
        self.pad_id = max(sp.pad_id(), 0)
        controls = (i for i in range(self.vocab_size) if sp.is_control(i))
        self.specials = {sp.id_to_piece(i): i for i in controls}
        self.named_specials = {
            "bos_token": sp.id_to_piece(sp.bos_id()),
            "eos_token": sp.id_to_piece(sp.eos_id()),
        }
        self.marker_pattern = re.compile(
            "|".join(re.escape(piece) for piece in sorted(self.specials, key=len, reverse=True))
        )
        self.sha256 = files_sha256(self.files())
        self._byte_x = sp.piece_to_id("<0x78>")
        self._space_ids = [sp.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]

    def files(self) -> dict[str, bytes]:
        """Returns `tokenizer.model`."""
        return {MODEL_FILE: self._model}

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self._joined([self._sp.encode(part) for part in _parts(text)])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        parts = [_parts(text) for text in texts]
        encoded = iter(self._sp.encode([part for of_text in parts for part in of_text], num_threads=-1))
        return [self._joined([next(encoded) for _ in of_text]) for of_text in parts]

    def encode_parts(self, parts: Sequence[str], *, begins: bool) -> list[list[int]]:
        """Returns the ids of each part on its own, with the space that SentencePiece puts before a text."""
        return [self.encode(part) for part in parts]

    def _joined(self, parts: list[list[int]]) -> list[int]:
        ids = parts[0]
        for part in parts[1:]:
            ids = ids + self._space_ids + part
        return ids

    def decode(self, ids: Iterable[int], *, specials: bool = False, continues: bool = False) -> str:
        """See `Tokenizer`."""
        out: list[str] = []
        run: list[int] = []
        for i in map(int, ids):
            if self._sp.is_control(i):
                out.append(self._decode_run(run, continues))
                run, continues = [], False
                out.append(self._sp.id_to_piece(i) if specials else "")
                continue
            run.append(i)
            if run[-3:] == self._space_ids:
                out.extend((self._decode_run(run[:-3], continues), _SPACE))
                run, continues = [], False
        out.append(self._decode_run(run, continues))
        return "".join(out)

    def _decode_run(self, ids: list[int], continues: bool) -> str:
        # SentencePiece drops the space at the start of the first piece; a letter before it keeps that space.
        return self._sp.decode([self._byte_x, *ids])[1:] if continues else self._sp.decode(ids)


def train_sentencepiece(texts: Iterable[str], out_dir: str | os.PathLike[str], vocab_size: int) -> Tokenizer:
    """Trains a tokenizer and writes it to `out_dir/tokenizer.model`.

    The same texts in the same order give the same bytes. If the corpus is too small for `vocab_size`, the tokenizer has
    fewer ids.

    Args:
      texts: the corpus, which is read once.
      out_dir: the directory, which is made if it is missing.
      vocab_size: the largest number of ids, including 264 for special tokens and bytes.

    Raises:
      InputError: there is no text, or the vocabulary is too small for the characters of the corpus.
      WorkError: the file cannot be written.
    """
    sentences = list(_sentences(texts))
    if not sentences:
        raise InputError("tokenizer: no text to train on; give files with documents or chats")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            # In a small vocabulary, "bpe" makes frequent words single pieces sooner than "unigram" does.
            model_type="bpe",
            # The share of the corpus's characters that get a piece; the rest are written as bytes.
            character_coverage=0.9999,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            pad_id=0,
            pad_piece="<pad>",
            bos_id=1,
            eos_id=2,
            unk_id=3,
            control_symbols=list(CHAT_MARKERS),
            hard_vocab_limit=False,
            max_sentence_length=8 * _MAX_SENTENCE,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as e:
        reason = " ".join(str(e).rpartition("]")[2].split())
        raise InputError(f"tokenizer.vocab_size is {vocab_size}: {reason}") from None
    storage.write_bytes(Path(out_dir) / MODEL_FILE, model.getvalue())
    return SentencePieceTokenizer(model.getvalue())


def _parts(text: str) -> list[str]:
    """Splits a text at the character that SentencePiece uses for a space; each part is encoded on its own."""
    return checked(text).split(_SPACE)


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Yields the corpus without the characters that SentencePiece reserves, with long texts cut at spaces."""
    for text in texts:
        rest = text.replace(_SPACE, " ").replace(_RESERVED, " ")
        while len(rest) > _MAX_SENTENCE:
            cut = rest.rfind(" ", 1, _MAX_SENTENCE)
            cut = _MAX_SENTENCE if cut < 0 else cut
            yield rest[:cut]
            rest = rest[cut:].removeprefix(" ")
        if rest.strip():
            yield rest
