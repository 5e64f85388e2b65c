"""Tokenised sources on disk, in directories named by the hash of everything that decides their content.

A source is tokenised once. What decides its cache is the bytes of the data, the tokenizer, the template if the source
has chats, and the version of this format. Several processes may build the same cache at once.

A document is stored as `Tokenizer.document` encodes it, a chat as the examples of `encoding.training_examples`, and a
pair as two documents, of which the first is the chosen answer after the prompt and the second the rejected one.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msm_jax.data import files as data_files
from msm_jax.data import pairs, sources
from msm_jax.data.config import ChatConfig, SourceConfig
from msm_jax.data.encoding import training_examples
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing, storage

log = logging.getLogger(__name__)

_FORMAT = 1
_ARRAYS = ("offsets", "file", "line", "content")
_BATCH = 1024
_SKIPPED = "skipped.json"
# A file whose first lines are all malformed holds something else than its source says.
_HOPELESS = 100
_LOGGED = 20


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """A tokenised source.

    Attributes:
      address: hash of everything that decides the cache.
      files: the data files.
      tokens: int32 `[tokens]`, the documents one after the other.
      mask: bool `[tokens]`, which tokens carry loss as a target; None for documents, where all do.
      offsets: int64 `[documents + 1]`, the first token of each document.
      file: int32 `[documents]`, the index in `files` of the file that holds the document.
      line: int32 `[documents]`, the line of that file, or its row if it is Parquet, from 1.
      content: uint64 `[documents]`, hash of each document's text; it does not depend on the tokenizer.
      skipped: ("file:line", problem) of each line that was left out because it is malformed.
      together: how many documents in turn belong together: 2 for pairs, otherwise 1.
    """

    address: str
    files: tuple[str, ...]
    tokens: np.ndarray
    mask: np.ndarray | None
    offsets: np.ndarray
    file: np.ndarray
    line: np.ndarray
    content: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    together: int = 1

    def where(self, document: int) -> str:
        """Returns "file:line" of a document."""
        return f"{self.files[self.file[document]]}:{self.line[document]}"


def _address(
    config: SourceConfig, data_sha256: str, tokenizer: Tokenizer, template: ChatTemplate | None, chat: ChatConfig
) -> str:
    """Returns the hash of everything that decides the cache of a source; the paths of its files do not."""
    made_from: dict[str, Any] = {
        "format": _FORMAT,
        "kind": config.kind,
        "data": data_sha256,
        "tokenizer": tokenizer.sha256,
        "template": template.sha256 if config.kind != "documents" and template is not None else "",
    }
    if not tokenizer.chats_begin_with_bos:
        # These ids come from a file beside the vocabulary, which `tokenizer.sha256` leaves out.
        specials = sorted(tokenizer.specials.values())
        made_from["specials"] = [tokenizer.bos_id, tokenizer.document_end_id, specials]
    if config.kind != "documents" and template is not None:
        settings = dataclasses.replace(chat, variables=dict(template.variables))
        if settings != ChatConfig():
            made_from["chat"] = dataclasses.asdict(settings)
    return hashing.sha256(json.dumps(made_from, sort_keys=True).encode())


def open_cache(
    config: SourceConfig,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    cache_dir: str | os.PathLike[str],
    chat: ChatConfig = ChatConfig(),  # noqa: B008 (frozen)
) -> TokenCache:
    """Opens the cache of a source under `cache_dir`, and builds it first if it is missing.

    Raises:
      InputError: the data is wrong (see `sources`) and the source does not skip such lines, or nothing else is left,
        or it changes while it is read, or the source has chats and there is no template.
      WorkError: the cache cannot be written, or is damaged.
    """
    files = tuple(data_files.resolve(config.path))
    data = sources.data_sha256(files)
    address = _address(config, data, tokenizer, template, chat)
    directory = Path(cache_dir) / address[:32]
    if not directory.exists():
        with storage.new_directory(directory, shared=True) as temporary:
            _write(temporary, files, config, tokenizer, template, chat)
            if sources.data_sha256(files) != data:
                raise InputError(f"{config.path}: changed while it was read; run again when it is complete")
    tokens = _map(directory / "tokens.bin", np.int32)
    mask = None if config.kind == "documents" else _map(directory / "mask.bin", np.bool_)
    arrays = {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
    # Another setting may have built the cache, which is the same for both.
    found = storage.find_json(directory / _SKIPPED) or []
    skipped = tuple((f"{files[file]}:{line}", problem) for file, line, problem in found)
    if skipped and config.malformed == "refuse":
        raise InputError(": ".join(skipped[0]))
    for where, problem in skipped[:_LOGGED]:
        log.warning("skipped %s: %s", where, problem)
    if len(skipped) > _LOGGED:
        log.warning("skipped %d more lines; %s lists them", len(skipped) - _LOGGED, directory / _SKIPPED)
    if any(len(stored) != arrays["offsets"][-1] for stored in (tokens, mask) if stored is not None):
        raise WorkError(f"{directory}: the token cache is damaged; remove this directory to build it again")
    together = 2 if config.kind == "pairs" else 1
    return TokenCache(address, files, tokens, mask, **arrays, skipped=skipped, together=together)


def is_open(
    config: SourceConfig, tokenizer: Tokenizer, template: ChatTemplate | None, cache_dir: str, chat: ChatConfig
) -> bool:
    """Returns whether `open_cache` finds the cache of a source, so that nothing is tokenised."""
    data = sources.data_sha256(data_files.resolve(config.path))
    return (Path(cache_dir) / _address(config, data, tokenizer, template, chat)[:32]).exists()


def _map(file: Path, dtype: type) -> np.ndarray:
    # A plain array over the mapping, because indexing a memmap costs microseconds more.
    return np.asarray(np.memmap(file, dtype, mode="r"))


def _write(
    directory: Path,
    files: Sequence[str],
    config: SourceConfig,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    chat: ChatConfig,
) -> None:
    number = {file: i for i, file in enumerate(files)}
    skipped: list[tuple[int, int, str]] = []
    lengths, file, line, content = [], [], [], []

    def place(where: str) -> tuple[int, int]:
        name, _, number_in_file = where.rpartition(":")
        return number[name], int(number_in_file)

    def leave_out(where: str, problem: str) -> None:
        skipped.append((*place(where), problem))
        if len(skipped) == _HOPELESS and skipped[-1][:2] == (0, _HOPELESS):
            raise InputError(f"{where}: {problem} (as in the {_HOPELESS - 1} lines before; nothing else was found)")

    skip = leave_out if config.malformed == "skip" else None
    if config.kind == "documents":
        encoded = _documents(files, tokenizer, skip)
    elif config.kind == "pairs":
        encoded = _pairs(files, tokenizer, template, chat, skip)
    elif template is None:
        raise InputError(
            f"{config.path}: holds chats, but the checkpoint has no chat template; set chat_template to a Jinja file"
        )
    else:
        encoded = _chats(files, tokenizer, template, chat, skip)
    with (
        (directory / "tokens.bin").open("wb") as tokens_file,
        (directory / "mask.bin").open("wb") as mask_file,
    ):
        for ids, mask, where, text in encoded:
            tokens_file.write(np.asarray(ids, np.int32).tobytes())
            mask_file.write(np.asarray(mask, np.bool_).tobytes())
            lengths.append(len(ids))
            of_file, at = place(where)
            file.append(of_file)
            line.append(at)
            content.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
    if skipped and not lengths:
        first, at, problem = skipped[0]
        raise InputError(f"{files[first]}:{at}: {problem} (and no other line can be read)")
    if skipped:
        storage.write_json(directory / _SKIPPED, skipped)
    arrays: dict[str, np.ndarray] = {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "file": np.array(file, np.int32),
        "line": np.array(line, np.int32),
        "content": np.array(content, np.uint64),
    }
    for name in _ARRAYS:
        np.save(directory / f"{name}.npy", arrays[name], allow_pickle=False)


_Encoded = Iterator[tuple[list[int], list[bool], str, str]]


def _documents(files: Sequence[str], tokenizer: Tokenizer, skip: sources.Skip | None) -> _Encoded:
    """Yields (ids, mask, "file:line", text) of each document; its mask is empty, since all its tokens carry loss."""
    documents = sources.iter_documents(files, skip)
    while batch := list(itertools.islice(documents, _BATCH)):
        for document, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
            yield tokenizer.document(ids), [], document.where, document.text


def _chats(
    files: Sequence[str],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    settings: ChatConfig,
    skip: sources.Skip | None,
) -> _Encoded:
    for chat in sources.iter_chats(files, skip):
        try:
            examples = training_examples(tokenizer, template, chat.messages, chat.tools, settings)
        except InputError as e:
            if skip is None:
                raise InputError(f"{chat.where}: {e}") from None
            skip(chat.where, str(e))
            continue
        text = json.dumps([*chat.messages, *([chat.tools] if chat.tools else [])])
        for ids, mask in examples:
            yield ids, mask, chat.where, text


def _pairs(
    files: Sequence[str],
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    settings: ChatConfig,
    skip: sources.Skip | None,
) -> _Encoded:
    for where, pair in sources.iter_pairs(files, skip):
        if template is None and not isinstance(pair.prompt, str):
            raise InputError(
                f"{where}: holds messages, but the checkpoint has no chat template; set chat_template to a Jinja file"
            )
        try:
            answers = pairs.encode(pair, tokenizer, template, settings)
        except InputError as e:
            if skip is None:
                raise InputError(f"{where}: {e}") from None
            skip(where, str(e))
            continue
        for ids, mask in answers:
            yield ids, mask, where, pair.content
