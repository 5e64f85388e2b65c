"""`tokenizer.json` files, which the `tokenizers` package runs, with the settings of `tokenizer_config.json`.

The ids are those of transformers, with one exception: a text that spells a special token stays text. An added token
that is not special (`<think>`, `<tool_call>`) is matched everywhere, as in transformers. A decoded text equals the
encoded one up to the file's own normalisation: Qwen composes accents (NFC), and a Llama 2 or Mistral file puts a space
before a text unless it begins with one.

A text has a begin token only if `add_bos_token` or the file's post-processor says so. Llama 3 texts begin with
`<|begin_of_text|>`; those of Qwen and SmolLM2 have none, although their files name a `bos_token`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import tokenizers

from msm_jax.data.tokenizers.interface import (
    CONFIG_FILE,
    JSON_FILE,
    SPECIALS_FILE,
    Tokenizer,
    checked,
    files_sha256,
)
from msm_jax.errors import InputError

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Ends of a document in pretraining, in families whose `eos_token` ends a turn.
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>")
# No normalisation changes this text, and a vocabulary without bytes cannot encode it.
_PROBE = "Aé 漢🙂 \n\t  x\x01"


def named_specials(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns `Tokenizer.named_specials` from `tokenizer_config.json` or `special_tokens_map.json`."""
    return {name: _piece(config[name]) for name in _NAMES if config.get(name) is not None}


class JsonTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` package that can encode every text."""

    chats_begin_with_bos = False

    def __init__(self, files: Mapping[str, bytes], where: str = ""):
        """Opens `tokenizer.json` and, if present, `tokenizer_config.json` and `special_tokens_map.json`.

        Raises:
          InputError: a file is damaged, the files contradict each other, no end token is named, or the tokenizer
            cannot encode every text.
        """
        self._files = {name: files[name] for name in (JSON_FILE, CONFIG_FILE, SPECIALS_FILE) if name in files}
        self._where = where
        self.sha256 = files_sha256({JSON_FILE: self._files[JSON_FILE]})
        spec = self._json(JSON_FILE)
        config = self._json(SPECIALS_FILE) | self._json(CONFIG_FILE)
        self.named_specials = named_specials(config)
        self._prefix = _prefix(spec)
        added = self._special_tokens(spec, config)
        self._start = self._inside = self._open(self._files[JSON_FILE].decode("utf-8"), added)
        if self._prefix != "never":
            self._inside = self._open(json.dumps(_without_prefix(spec)), added)
        self._after_special = self._inside if self._prefix == "first" else self._start

        self.vocab_size = max(self._start.get_vocab(with_added_tokens=True).values()) + 1
        tokens = self._start.get_added_tokens_decoder()
        special = {i: token for i, token in tokens.items() if token.special}
        self.specials = {token.content: i for i, token in special.items()}
        self._special_ids = {i: token.content for i, token in special.items()}
        self.marker_pattern = self._markers(list(special.values()))
        if "eos_token" not in self.named_specials:
            raise InputError(f"{where}{CONFIG_FILE}: names no eos_token; add it")
        self.eos_id = self._id_of("eos_token")
        self.document_end_id = next(
            (self.specials[piece] for piece in _DOCUMENT_ENDS if piece in self.specials), self.eos_id
        )
        self.pad_id = self._id_of("pad_token") if "pad_token" in self.named_specials else 0
        self.bos_id = self._begin(config.get("add_bos_token"))
        letter = self._inside.token_to_id("x")
        if letter is None or self.decode(self.encode(_PROBE)) != _PROBE:
            raise InputError(
                f"{where}{JSON_FILE}: cannot encode every text, or changes it; use a tokenizer with byte pieces"
            )
        self._letter = letter

    def files(self) -> dict[str, bytes]:
        """Returns the files as they were given, byte for byte."""
        return dict(self._files)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        encoded = self._start.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def encode_parts(self, parts: Sequence[str], *, begins: bool) -> list[list[int]]:
        """Returns the ids of the whole text, cut at the ends of the parts.

        If a token of the whole reaches across such an end, or the first parts alone have other ids than within the
        whole, each part is encoded on its own. Sampling after the first parts then sees the ids of training.
        """
        backend = self._start if begins else self._after_special
        text = checked("".join(parts))
        whole = backend.encode(text, add_special_tokens=False).ids
        cuts, at = [0], 0
        for part in parts[:-1]:
            at += len(part)
            ids = backend.encode(text[:at], add_special_tokens=False).ids
            if whole[: len(ids)] != ids:
                first = backend.encode(parts[0], add_special_tokens=False).ids
                rest = self._inside.encode_batch_fast(list(parts[1:]), add_special_tokens=False)
                return [first, *(encoding.ids for encoding in rest)]
            cuts.append(len(ids))
        return [whole[start:end] for start, end in zip(cuts, [*cuts[1:], len(whole)], strict=True)]

    def decode(self, ids: Iterable[int], *, specials: bool = False, continues: bool = False) -> str:
        """See `Tokenizer`."""
        out: list[str] = []
        run: list[int] = []
        for i in map(int, ids):
            if i not in self._special_ids:
                run.append(i)
                continue
            out.append(self._decode_run(run, continues))
            run, continues = [], self._prefix == "first"
            out.append(self._special_ids[i] if specials else "")
        out.append(self._decode_run(run, continues))
        return "".join(out)

    def _decode_run(self, ids: list[int], continues: bool) -> str:
        if continues and self._prefix != "never":
            # Decoding drops the space before the first token; a letter before it keeps that space.
            return self._start.decode([self._letter, *ids], skip_special_tokens=False)[1:]
        return self._start.decode(ids, skip_special_tokens=False)

    def _json(self, name: str) -> dict[str, Any]:
        if name not in self._files:
            return {}
        try:
            value = json.loads(self._files[name])
        except (ValueError, RecursionError) as e:
            raise InputError(f"{self._where}{name}: not JSON ({e}); copy it again") from None
        if not isinstance(value, dict):
            raise InputError(f"{self._where}{name}: not a JSON object; copy it again")
        return value

    def _open(self, text: str, specials: list[tokenizers.AddedToken]) -> tokenizers.Tokenizer:
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as e:  # the package raises nothing more exact
            raise InputError(f"{self._where}{JSON_FILE}: not a tokenizer ({e}); copy it again") from None
        backend.no_truncation()
        backend.no_padding()
        missing = [token.content for token in specials if backend.token_to_id(token.content) is None]
        if missing:
            raise InputError(
                f"{self._where}{CONFIG_FILE}: names {missing[0]}, which {JSON_FILE} does not have; "
                "take both files from the same model"
            )
        backend.add_special_tokens(specials)
        # A special token in a text is ordinary text; `marker_pattern` finds those that a template writes.
        backend.encode_special_tokens = True
        return backend

    def _special_tokens(self, spec: Mapping[str, Any], config: Mapping[str, Any]) -> list[tokenizers.AddedToken]:
        """Returns the tokens that the config makes special in addition to those of tokenizer.json."""
        listed = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
        pieces = [*self.named_specials.values(), *(map(_piece, listed) if isinstance(listed, list) else [])]
        given = {token["content"]: token for token in spec.get("added_tokens", [])}
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        found = []
        for piece in dict.fromkeys(pieces):
            token = given.get(piece, {})
            if not token.get("special"):
                kept = {flag: token.get(flag, False) for flag in flags}
                found.append(tokenizers.AddedToken(piece, special=True, **kept))
        return found

    def _markers(self, tokens: list[tokenizers.AddedToken]) -> re.Pattern[str]:
        for token in tokens:
            if token.single_word:
                raise InputError(
                    f"{self._where}{JSON_FILE}: {token.content} counts only as a word of its own (single_word), "
                    "which is not supported; set it to false"
                )
        longest_first = sorted(tokens, key=lambda token: len(token.content), reverse=True)
        patterns = [
            (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")
            for token in longest_first
        ]
        return re.compile("|".join(patterns) or "(?!)")

    def _id_of(self, name: str) -> int:
        return self.specials[self.named_specials[name]]

    def _begin(self, add_bos_token: bool | None) -> int | None:
        if add_bos_token is False or (add_bos_token and "bos_token" not in self.named_specials):
            return None
        if add_bos_token:
            return self._id_of("bos_token")
        plain = self._start.encode("x", add_special_tokens=False).ids
        ids = self._start.encode("x", add_special_tokens=True).ids
        begin = ids[: next(i for i in range(len(ids)) if ids[i : i + len(plain)] == plain)]
        if len(begin) > 1:
            raise InputError(
                f"{self._where}{JSON_FILE}: its post_processor puts {len(begin)} tokens before a text; one is supported"
            )
        return begin[0] if begin else None


def _piece(token: Any) -> str:
    """Returns the text of a special token in a config, which is a string or an object with "content"."""
    return token["content"] if isinstance(token, Mapping) else str(token)


def _steps(spec: Any) -> list[dict[str, Any]]:
    """Returns the normalizers or pre-tokenizers of one field, with sequences flattened."""
    if not spec:
        return []
    if spec["type"] != "Sequence":
        return [spec]
    return [step for inner in spec.get("normalizers", spec.get("pretokenizers", [])) for step in _steps(inner)]


def _prefix(spec: Mapping[str, Any]) -> Literal["never", "first", "always"]:
    """Returns whether a space is put before a text: never, before the first only, or also after each special token."""
    for step in [*_steps(spec.get("normalizer")), *_steps(spec.get("pre_tokenizer"))]:
        if step["type"] == "Metaspace":
            scheme = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
            if scheme == "first":
                return "first"
            if scheme == "always":
                return "always"
        if step["type"] == "Prepend" or (step["type"] == "ByteLevel" and step.get("add_prefix_space")):
            return "always"
    return "never"


def _without_prefix(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tokenizer for text that continues other text, which has no space put before it."""
    changed = json.loads(json.dumps(spec))
    for step in [*_steps(changed.get("normalizer")), *_steps(changed.get("pre_tokenizer"))]:
        if step["type"] == "Metaspace":
            step.pop("add_prefix_space", None)
            step["prepend_scheme"] = "never"
        elif step["type"] == "Prepend":
            step["prepend"] = ""
        elif step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    return changed
