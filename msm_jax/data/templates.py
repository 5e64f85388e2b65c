"""Chat templates: where their source is found, and what they make of messages.

A template is Jinja source, as in Hugging Face checkpoints. One from outside is rendered in a child process (see
`template_process`). Its `variables` (`enable_thinking`, a date) are given to it besides the messages.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.data import chat_rendering, template_process
from msm_jax.data.tokenizers import CONFIG_FILE
from msm_jax.data.turns import Rendered
from msm_jax.errors import InputError
from msm_jax.foundation import hashing, storage

log = logging.getLogger(__name__)

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]

TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
# The directory in which transformers saves named templates other than the default.
_NAMED_TEMPLATES = "additional_chat_templates"
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template.

    Attributes:
      source: its Jinja source.
      variables: what it is given besides messages, tools and the special tokens; JSON values.
      where: its name in errors.
    """

    source: str = DEFAULT_TEMPLATE
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = dataclasses.field(default="chat template", compare=False)

    def __post_init__(self) -> None:
        """Refuses a template that does not compile."""
        self.renders([], [])

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the source."""
        return hashing.sha256(self.source.encode())

    def told(self, variables: Mapping[str, Any]) -> ChatTemplate:
        """Returns the template with more variables; warns of those that it had with another value."""
        for name in sorted(self.variables.keys() & variables.keys()):
            before, now = self.variables[name], variables[name]
            if before != now:
                log.warning("%s: the variable %s was %r in training and is now %r", self.where, name, before, now)
        return dataclasses.replace(self, variables={**self.variables, **variables})

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        *,
        tools: Tools = (),
        **named_specials: str,
    ) -> str:
        """Renders a chat as text for a human reader; `encode_chat` gives ids, and is safe from specials in messages.

        Raises:
          InputError: the template refuses the messages, fails on them, or does not end.
        """
        ask = [(len(messages), add_generation_prompt)]
        return self.renders(messages, ask, tools, named_specials)[0].text

    def renders(
        self,
        messages: Sequence[Message],
        ask: Sequence[tuple[int, bool]],
        tools: Tools = (),
        named_specials: Mapping[str, str] | None = None,
    ) -> list[Rendered]:
        """Renders several beginnings of a chat.

        Args:
          messages: the chat.
          ask: for each text, how many of the first messages it has, and add_generation_prompt.
          tools: their descriptions.
          named_specials: "bos_token" and the like, which templates may write.

        Raises:
          InputError: as for `render`.
        """
        given = {"tools": None, "documents": None, **(named_specials or {}), **self.variables}
        if tools:
            given["tools"] = list(tools)
        plain = [{key: value for key, value in message.items() if value is not None} for message in messages]
        try:
            if self.source == DEFAULT_TEMPLATE:
                request = {"source": self.source, "messages": plain, "variables": given, "ask": ask}
                found = list(chat_rendering.answers(request, _TRUSTED))
                if "problem" in found[-1]:
                    raise template_process.TemplateProblem(found[-1]["problem"])
                found = found[: len(ask)]
            else:
                found = template_process.render(self.source, plain, given, list(ask))
        except template_process.TemplateProblem as e:
            raise InputError(f"{self.where}:{e}; correct the template or the messages") from None
        return [Rendered(answer["text"], tuple(map(tuple, answer["spans"])), answer["dated"]) for answer in found]


# The built-in template is trusted, so it runs in this process.
_TRUSTED: dict[str, chat_rendering.Rendering] = {}


def find_source(files: Mapping[str, bytes], where: str = "") -> str | None:
    """Finds the chat template among the files of a checkpoint or Hugging Face directory.

    It is in `chat_template.jinja`, or else in `tokenizer_config.json`. In a list of named templates, it is "default".

    Returns:
      Its source, or None if there is no template.

    Raises:
      InputError: a file is not text, or there are named templates without a default.
    """
    if TEMPLATE_FILE in files:
        try:
            return files[TEMPLATE_FILE].decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{where}{TEMPLATE_FILE}: not UTF-8; save the file as UTF-8") from None
    found = json_object(files, CONFIG_FILE, where).get("chat_template")
    if isinstance(found, list) and all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in found):
        named = {entry["name"]: entry.get("template") for entry in found}
        if "default" not in named:
            raise no_default(f"{where}{CONFIG_FILE}", named)
        found = named["default"]
    if found is not None and not isinstance(found, str):
        raise InputError(
            f"{where}{CONFIG_FILE}: its chat_template is neither a text nor a list of named ones; copy it again"
        )
    return found


def no_default(where: str, names: Iterable[str]) -> InputError:
    """Returns the refusal of named templates without a default; to ignore them would change the form of chats."""
    return InputError(
        f"{where}: none of its chat templates is named default (its names: {', '.join(sorted(names)) or 'none'}); "
        f"save the one to use as {TEMPLATE_FILE} in a Hugging Face directory of the model"
    )


def find_source_in(directory: Path, files: Mapping[str, bytes]) -> str | None:
    """Returns `find_source` of the files of a directory, and looks for named templates in their own folder as well.

    Raises:
      InputError: as for `find_source`, or that folder holds templates and there is no default.
    """
    found = find_source(files, f"{directory}/")
    others = [path.stem for path in (directory / _NAMED_TEMPLATES).glob("*.jinja")]
    if found is None and others:
        raise no_default(f"{directory / _NAMED_TEMPLATES}", others)
    return found


def of_checkpoint(info: Mapping[str, Any], assets: Mapping[str, bytes], where: str = "") -> ChatTemplate | None:
    """Returns the template that a checkpoint was trained with, with its variables; None if it has no template.

    Raises:
      InputError: the template is damaged.
    """
    if TEMPLATE_FILE not in assets:
        return None
    source = find_source({TEMPLATE_FILE: assets[TEMPLATE_FILE]}, where) or ""
    return ChatTemplate(source, info.get("chat_variables", {}), f"{where}{TEMPLATE_FILE}")


def files(template: ChatTemplate | None) -> dict[str, bytes]:
    """Returns {file name: bytes} with which a checkpoint stores a template."""
    return {} if template is None else {TEMPLATE_FILE: template.source.encode("utf-8")}


def for_transformers(assets: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the tokenizer and template files of an export, in which all files have the same template.

    Older readers take the template from `tokenizer_config.json`. If it has one, the one of `chat_template.jinja`
    replaces it.
    """
    out = dict(assets)
    config = json_object(assets, CONFIG_FILE)
    if "chat_template" in config and TEMPLATE_FILE in assets:
        source = assets[TEMPLATE_FILE].decode("utf-8")
        if config["chat_template"] != source:
            out[CONFIG_FILE] = storage.json_bytes({**config, "chat_template": source})
    return out


def json_object(files: Mapping[str, bytes], name: str, where: str = "") -> dict[str, Any]:
    """Returns the JSON object of a file, {} where there is no such file.

    Raises:
      InputError: the file holds something else.
    """
    if name not in files:
        return {}
    try:
        value = json.loads(files[name])
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where}{name}: not JSON ({e}); copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}{name}: not a JSON object; copy it again")
    return value
