"""The chat template that a phase trains with: the checkpoint's own, unless the phase says that it replaces it.

A model that was trained under one template and is sampled under another answers worse without any error, so a change
is refused unless it is asked for, said at the start of the phase, and recorded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax.data import templates
from msm_jax.data.templates import DEFAULT_TEMPLATE, GENERATION_FILE, TEMPLATE_FILE, ChatTemplate
from msm_jax.data.tokenizers import CHAT_MARKERS, FILES, Tokenizer
from msm_jax.errors import InputError
from msm_jax.training.config import PhaseConfig


@dataclass(frozen=True)
class PhaseTemplate:
    """What a phase writes chats with.

    Attributes:
      template: None where the checkpoint has none and the phase names none, so that it can read no chats.
      replaced_sha256: of the checkpoint's template where the phase replaces it, else "".
      notices: what the user has to know, one line each.
    """

    template: ChatTemplate | None
    replaced_sha256: str = ""
    notices: tuple[str, ...] = ()


def from_scratch(
    chat_template: str, variables: Mapping[str, Any], directory: str, tokenizer: Tokenizer
) -> ChatTemplate | None:
    """The template of a phase from scratch: the file that it names, or the tokenizer directory's, or the built-in one.

    The built-in one needs its markers in the tokenizer; without them there is None.

    Raises:
      InputError: a file cannot be read or is no template.
    """
    variables = _plain(variables)
    if chat_template:
        return ChatTemplate(_read(chat_template), variables, chat_template)
    found = templates.find_source_in(Path(directory), tokenizer_files(directory))
    if found is None and set(CHAT_MARKERS) <= tokenizer.specials.keys():
        found = DEFAULT_TEMPLATE
    return None if found is None else ChatTemplate(found, variables)


def from_checkpoint(
    config: PhaseConfig, path: Path, info: Mapping[str, Any], assets: Mapping[str, bytes], *, resumes: bool
) -> PhaseTemplate:
    """The template of a phase that starts from the checkpoint at `path`, or goes on from its own (`resumes`).

    Raises:
      InputError: the phase names another template and does not say that it replaces the checkpoint's; or a file
        cannot be read or is no template.
    """
    theirs = templates.of_checkpoint(info, assets, f"{path}/")
    recorded = dict(theirs.variables) if theirs is not None else {}
    variables = {**recorded, **_plain(config.data.chat.variables)}
    notices = [
        f"data.chat.variables.{name} = {variables[name]!r}, but the checkpoint was trained with {value!r}"
        for name, value in recorded.items()
        if variables[name] != value
    ]
    if not config.chat_template:
        template = None if theirs is None else dataclasses.replace(theirs, variables=variables)
    else:
        template = ChatTemplate(_read(config.chat_template), variables, config.chat_template)
    if resumes:
        if config.chat_template and (theirs is None or template != theirs):
            raise InputError(
                f"chat_template {config.chat_template} does not match {path}; use the one the run began with, or "
                "another workdir"
            )
        return PhaseTemplate(template, info.get("replaced_template_sha256", ""), tuple(notices))
    if theirs is None or template is None or template.source == theirs.source:
        return PhaseTemplate(template, "", tuple(notices))
    if not config.replace_chat_template:
        raise InputError(
            f"chat_template {config.chat_template} ({template.sha256[:12]}) is not the one that {path} was trained "
            f"with ({theirs.sha256[:12]}); leave it empty to go on with that one, or set replace_chat_template"
        )
    notices.append(
        f"the CHAT TEMPLATE CHANGES from {theirs.sha256[:12]} ({path}) to {template.sha256[:12]} "
        f"({config.chat_template}): what the model learnt under the old one may not show under the new one"
    )
    return PhaseTemplate(template, theirs.sha256, tuple(notices))


def assets(
    given: Mapping[str, bytes], tokenizer: Tokenizer, template: ChatTemplate | None
) -> dict[str, bytes]:
    """The tokenizer and template files of a checkpoint, with what else is `given`."""
    kept = {name: content for name, content in given.items() if name != TEMPLATE_FILE}
    return {**kept, **tokenizer.files(), **templates.files(template)}


def tokenizer_files(directory: str) -> dict[str, bytes]:
    """The files of a tokenizer directory that a checkpoint carries."""
    names = (*FILES, TEMPLATE_FILE, GENERATION_FILE)
    return {name: (Path(directory) / name).read_bytes() for name in names if (Path(directory) / name).is_file()}


def _plain(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables as a checkpoint's info gives them back."""
    return json.loads(json.dumps(dict(variables)))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat_template {path}: cannot be read: {error}") from error
