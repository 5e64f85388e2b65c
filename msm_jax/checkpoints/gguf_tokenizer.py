"""The tokenizer of a GGUF file as tokenizer.json. It is a byte-level BPE that the file's fields describe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from msm_jax.checkpoints import assets as files
from msm_jax.data import templates
from msm_jax.data.tokenizers import CONFIG_FILE, JSON_FILE
from msm_jax.errors import InputError
from msm_jax.foundation import storage

_FIELD = "tokenizer.ggml."
# GGUF's numbers for kinds of tokens.
_CONTROL, _USER_DEFINED = 3, 4
# The pattern with which Llama 3's tokenizer.json splits a text into words; BPE does not merge across words.
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def token_ids(fields: Mapping[str, Any]) -> dict[str, int]:
    """Returns the token ids that config.json and generation_config.json contain."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: fields.get(f"{_FIELD}{role}_token_id") for name, role in names.items()}
    return {name: int(value) for name, value in found.items() if value is not None}


def assets(fields: Mapping[str, Any], where: Path) -> dict[str, bytes]:
    """Returns tokenizer.json, tokenizer_config.json, generation_config.json and the chat template.

    A tokenizer that is not a byte-level BPE is left out.

    Raises:
        InputError: it is not known how the byte-level BPE splits words, its fields are damaged, or none of several
            chat templates is the default.
    """
    found = {files.GENERATION: storage.json_bytes(token_ids(fields))}
    template = fields.get("tokenizer.chat_template")
    if template is not None:
        found[files.TEMPLATE] = str(template).encode()
    elif fields.get("tokenizer.chat_templates"):
        raise templates.no_default(str(where), fields["tokenizer.chat_templates"])
    if fields.get(f"{_FIELD}model") != "gpt2":
        return found
    tokens, kinds, merges = (fields.get(f"{_FIELD}{name}") for name in ("tokens", "token_type", "merges"))
    if not tokens or not kinds or not merges or len(tokens) != len(kinds):
        raise InputError(f"{where}: {_FIELD}tokens, token_type and merges do not fit each other; copy the file again")
    words = fields.get(f"{_FIELD}pre", "default")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=words == "llama-bpe"))
    tokenizer.pre_tokenizer = _words(words, where)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    plain = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([tokenizers.AddedToken(t, special=False, normalized=False) for t in plain])
    roles = {role: fields.get(f"{_FIELD}{name}_token_id") for role, name in _ROLES.items()}
    named = {role: tokens[i] for role, i in roles.items() if i is not None}
    if fields.get(f"{_FIELD}add_bos_token") and "bos_token" in named:
        bos = named["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocab[bos])]
        )
    config = {
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields.get("llama.context_length"),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    made = tokenizer.to_str(pretty=True).encode()
    found |= {JSON_FILE: made, CONFIG_FILE: storage.json_bytes(config)}
    return found


def _words(name: str, where: Path) -> pre_tokenizers.PreTokenizer:
    """Returns the pre-tokenizer that splits a text into words, by its name in llama.cpp."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name != "llama-bpe")
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if name == "llama-bpe":
        split = pre_tokenizers.Split(tokenizers.Regex(_LLAMA3_WORDS), "isolated")
        return pre_tokenizers.Sequence([split, byte_level])
    if name == "gpt-2":
        return byte_level
    raise InputError(f"{where}: {_FIELD}pre {name!r} is not supported; supported are smollm, llama-bpe and gpt-2")
