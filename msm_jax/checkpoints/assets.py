"""Assets, the files stored with weights: tokenizer, chat template, generation settings and the source's config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msm_jax.data import templates, tokenizers
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.foundation import hashing
from msm_jax.models.config import ModelConfig

# The name of the source's config.json among a checkpoint's assets.
CONFIG = "hf_config.json"
GENERATION = templates.GENERATION_FILE
TEMPLATE = templates.TEMPLATE_FILE
# The first of these files that exists is the tokenizer; other files say how it is used.
TOKENIZERS = (tokenizers.JSON_FILE, tokenizers.MODEL_FILE)
_VERBATIM = (*tokenizers.FILES, "added_tokens.json", "vocab.json", "merges.txt")


def read(directory: Path) -> dict[str, bytes]:
    """Reads the assets of a Hugging Face directory; a chat template in tokenizer_config.json becomes a file of its own.

    Raises:
        InputError: a file cannot be read, or none of several chat templates is the default.
    """
    try:
        files = {name: directory / name for name in (*_VERBATIM, GENERATION, TEMPLATE)}
        assets = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
        assets[CONFIG] = (directory / "config.json").read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    template = templates.find_source_in(directory, assets)
    return assets if template is None else assets | {TEMPLATE: template.encode()}


def parse(assets: Mapping[str, bytes], name: str, where: Path) -> dict[str, Any]:
    """Parses an asset that is a JSON object; `where` names the directory or file in errors.

    Raises:
        InputError: the asset is not a JSON object.
    """
    try:
        value = json.loads(assets[name])
    except ValueError as error:
        raise InputError(f"{where / name}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where / name}: is not a JSON object; copy it again")
    return value


def check_vocabulary(assets: Mapping[str, bytes], model: ModelConfig, where: Path) -> None:
    """Refuses a tokenizer of another model. It may be missing, and may have fewer ids than the model has rows.

    Raises:
        InputError: an id of the tokenizer has no row in the embedding, or the tokenizer lacks an id that the
            configuration names.
    """
    if not any(name in assets for name in TOKENIZERS):
        return
    file = next(name for name in TOKENIZERS if name in assets)
    most = max(_ids(assets, file, where), default=-1)
    if most >= model.vocab_size:
        raise InputError(
            f"{where / file}: has id {most}, but tensor model.embed_tokens.weight has {model.vocab_size} rows; "
            "it is the tokenizer of another model"
        )
    for name in (CONFIG, GENERATION):
        config = parse(assets, name, where) if name in assets else {}
        for field in ("bos_token_id", "eos_token_id"):
            named = config.get(field)
            wrong = [i for i in (named if isinstance(named, list) else [named]) if isinstance(i, int) and i > most]
            if wrong:
                shown = "config.json" if name == CONFIG else name
                raise InputError(
                    f"{where / file}: has {most + 1} ids, but {shown} names {field} {wrong[0]}; "
                    "it is the tokenizer of another model"
                )


def check_template(assets: Mapping[str, bytes], variables: Mapping[str, Any], where: Path) -> None:
    """Refuses a chat template that cannot render a user's first message, before any weights are read.

    Args:
        assets: the files with the template; without a tokenizer among them, the template is only compiled.
        variables: what the template is given besides the messages.
        where: the directory or file of the template.

    Raises:
        InputError: the template does not compile, fails, does not end, or uses what the sandbox forbids.
    """
    if TEMPLATE not in assets:
        return
    file = next((where / name for name in (TEMPLATE, tokenizers.CONFIG_FILE) if (where / name).is_file()), where)
    template = ChatTemplate(assets[TEMPLATE].decode(), variables, str(file))
    if tokenizers.JSON_FILE in assets:
        read = [parse(assets, n, where) for n in (tokenizers.SPECIALS_FILE, tokenizers.CONFIG_FILE) if n in assets]
        specials = tokenizers.named_specials({key: value for config in read for key, value in config.items()})
    elif tokenizers.MODEL_FILE in assets:
        specials = Tokenizer.from_files(assets, f"{where}/").named_specials
    else:
        return
    template.renders([{"role": "user", "content": "Hello"}], [(1, True)], named_specials=specials)


def _ids(assets: Mapping[str, bytes], file: str, where: Path) -> Iterator[int]:
    if file == tokenizers.MODEL_FILE:
        yield Tokenizer.from_files(assets).vocab_size - 1
        return
    value = parse(assets, file, where)
    try:
        vocab = value["model"]["vocab"]
        # A Unigram model lists its pieces; the other models map them to ids.
        yield from vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        yield from (entry["id"] for entry in value.get("added_tokens") or ())
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where / file}: has no model.vocab, which a tokenizer.json needs; copy it again") from error


def digests(assets: Mapping[str, bytes]) -> tuple[str, str]:
    """Returns the SHA-256 of the tokenizer and of the chat template for a checkpoint's info, "" for a missing one."""
    held = next(({name: assets[name]} for name in TOKENIZERS if name in assets), None)
    template = assets.get(TEMPLATE)
    return (
        tokenizers.files_sha256(held) if held else "",
        hashing.sha256(template) if template is not None else "",
    )
