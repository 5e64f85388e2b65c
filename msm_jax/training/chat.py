"""The decision which chat template a phase trains with: the checkpoint's own, unless the phase asks to replace it.

A model that was trained under one template and is sampled under another answers worse without any error. So a change
is refused unless the phase asks for it; then it is logged at the start of the phase and recorded in its checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msm_jax.data import templates
from msm_jax.data.templates import TEMPLATE_FILE, ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.training.config import PhaseConfig


@dataclass(frozen=True)
class PhaseTemplate:
    """The chat template that a phase trains with, or that a checkpoint was trained with.

    Attributes:
        template: None where there is none, so that no chats can be read.
        replaced_sha256: the hash of the template that the phase replaced, "" where it replaced none.
        notices: what the user has to know, one line each.
    """

    template: ChatTemplate | None
    replaced_sha256: str = ""
    notices: tuple[str, ...] = ()


def decide(
    config: PhaseConfig, found: PhaseTemplate | None, name: str, source: str | None, *, resumes: bool
) -> PhaseTemplate | None:
    """Decides the template of a phase.

    Args:
        config: the phase.
        found: the template of the checkpoint, or of the tokenizer directory; None where it is not known.
        name: the name of the checkpoint in messages.
        source: the text of the file `config.chat_template`; None where it is not known.
        resumes: whether the phase continues from a checkpoint of its own.

    Returns:
        The template, or None if it is not known. If `found` is not known, it is not known either whether the phase
        replaces a template.

    Raises:
        InputError: the phase names another template than the checkpoint's and does not say that it replaces it, or
            the template does not compile.
    """
    theirs = None if found is None else found.template
    recorded = {} if theirs is None else dict(theirs.variables)
    # JSON turns tuples into lists, as the info of a checkpoint has them.
    variables = {**recorded, **json.loads(json.dumps(dict(config.data.chat.variables)))}
    notices = [
        f"data.chat.variables.{key} = {variables[key]!r}, but the checkpoint was trained with {value!r}"
        for key, value in recorded.items()
        if variables[key] != value
    ]
    if config.chat_template and source is not None:
        template: ChatTemplate | None = ChatTemplate(source, variables, config.chat_template)
    elif config.chat_template or found is None:
        return None
    else:
        template = None if theirs is None else dataclasses.replace(theirs, variables=variables)
    if resumes:
        if config.chat_template and template != theirs:
            raise InputError(
                f"chat_template {config.chat_template} does not match {name}; use the one the run began with, or "
                "another workdir"
            )
        return PhaseTemplate(template, found.replaced_sha256 if found else "", tuple(notices))
    if theirs is None or template is None or template.source == theirs.source or config.init.mode == "scratch":
        return PhaseTemplate(template, "", tuple(notices))
    if not config.replace_chat_template:
        raise InputError(
            f"chat_template {config.chat_template} ({template.sha256[:12]}) is not the one that {name} was trained "
            f"with ({theirs.sha256[:12]}); leave it empty to keep that one, or set replace_chat_template"
        )
    notices.append(
        f"the CHAT TEMPLATE CHANGES from {theirs.sha256[:12]} ({name}) to {template.sha256[:12]} "
        f"({config.chat_template}): what the model learnt under the old one may not show under the new one"
    )
    return PhaseTemplate(template, theirs.sha256, tuple(notices))


def read(path: str) -> str | None:
    """Returns the text of a template file, None for an empty path.

    Raises:
        InputError: the file cannot be read.
    """
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat_template {path}: cannot be read: {error}") from error


def assets(given: Mapping[str, bytes], tokenizer: Tokenizer, template: ChatTemplate | None) -> dict[str, bytes]:
    """Returns the tokenizer and template files that a checkpoint carries, and the other files that are `given`."""
    kept = {name: content for name, content in given.items() if name != TEMPLATE_FILE}
    return {**kept, **tokenizer.files(), **templates.files(template)}
