"""The kinds of corpora that are generated from a spec: the settings of each, what runs it, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Group

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.specs.prose import Prose
from msm_jax.synthesis import chat_preview, demonstrations, pairs, pipeline, preview, rounds
from msm_jax.synthesis.chat_config import DemonstrationsConfig, PairsConfig, TalksConfig
from msm_jax.synthesis.config import DocumentsConfig
from msm_jax.synthesis.pipeline import Report
from msm_jax.synthesis.preview import Preview
from msm_jax.synthesis.rounds import Product


@dataclass(frozen=True)
class Kind:
    """A kind of corpus; its functions take its settings.

    Attributes:
        settings: the class of its settings.
        run: (config, directory, journal, report, seconds between reports, item files of evals) -> content of
            result.json.
        preview: (config, spec) -> a table for the terminal.
        estimate: (config, spec) -> the figures of that table.
        fingerprint: (config, spec) -> the hash of everything that decides the files.
    """

    settings: type[Any]
    run: Callable[[Any, Path, Path, Report, float, Sequence[str]], dict[str, Any]]
    preview: Callable[[Any, Prose], Group]
    estimate: Callable[[Any, Prose], Preview]
    fingerprint: Callable[[Any, Prose], str]


def _of_talks(of: type[TalksConfig], product: Product) -> Kind:
    """Returns the kind of a corpus that is made of conversations."""
    run, fingerprint = partial(rounds.run, product), partial(rounds.fingerprint, product)
    return Kind(of, run, chat_preview.table, chat_preview.of, fingerprint)


KINDS: Mapping[str, Kind] = {
    "documents": Kind(DocumentsConfig, pipeline.run, preview.table, preview.of, pipeline.fingerprint),
    "demonstrations": _of_talks(DemonstrationsConfig, demonstrations.PRODUCT),
    "pairs": _of_talks(PairsConfig, pairs.PRODUCT),
}


def build(mapping: Mapping[str, Any], where: str = "config") -> tuple[Kind, Any]:
    """Returns the kind that the field "kind" of a config names, and its settings.

    Raises:
        InputError: the kind is unknown, or a setting is refused.
    """
    fields = dict(settings.plain(mapping))
    name = fields.pop("kind", "documents")
    if name not in KINDS:
        raise InputError(f"{where}.kind: {name!r} is unknown; {settings.nearest(str(name), KINDS)}")
    return KINDS[name], settings.build(KINDS[name].settings, fields, where)
