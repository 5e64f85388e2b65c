"""Tokenizers: SentencePiece models that this package trains, and `tokenizer.json` files of Hugging Face checkpoints."""

from msm_jax.data.tokenizers.interface import (
    CONFIG_FILE,
    FILES,
    JSON_FILE,
    SPECIALS_FILE,
    Tokenizer,
    files_sha256,
    tokens_per_word,
)
from msm_jax.data.tokenizers.json_kind import named_specials
from msm_jax.data.tokenizers.sentencepiece_kind import CHAT_MARKERS, MODEL_FILE, train_sentencepiece

__all__ = [
    "CHAT_MARKERS",
    "CONFIG_FILE",
    "FILES",
    "JSON_FILE",
    "MODEL_FILE",
    "SPECIALS_FILE",
    "Tokenizer",
    "files_sha256",
    "named_specials",
    "tokens_per_word",
    "train_sentencepiece",
]
