"""Chat templates: from messages to token ids, and which of these carry loss.

A template is Jinja source, as in Hugging Face checkpoints. One from outside is rendered in a child process (see
`template_process`). Its `variables` (`enable_thinking`, a date) are given to it besides the messages.
`chat_tokens` encodes the rendered text.

The assistant's words and the special token that closes its turn carry loss; see `turns`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.data import chat_rendering, chat_tokens, template_process
from msm_jax.data.config import ChatConfig
from msm_jax.data.tokenizers import CONFIG_FILE, Tokenizer
from msm_jax.data.turns import Rendered, Turn, check_for_training, prepared, turns_of
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
    found = _json_object(files, CONFIG_FILE, where).get("chat_template")
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
    config = _json_object(assets, CONFIG_FILE)
    if "chat_template" in config and TEMPLATE_FILE in assets:
        source = assets[TEMPLATE_FILE].decode("utf-8")
        if config["chat_template"] != source:
            out[CONFIG_FILE] = storage.json_bytes({**config, "chat_template": source})
    return out


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Tools = (),
    thinking: str = "keep",
) -> tuple[list[int], list[bool]]:
    """Returns the ids of a chat, and for each id whether it carries loss.

    The special token that closes the last turn ends the chat. No end token follows unless the template writes one.

    Raises:
      InputError: the template does not write an assistant turn as an opener, its thinking, content (apart from white
        space around it) and tool calls, and a special token; or it rewrites the turn when others follow. The message
        names the turn.
    """
    chat = _Chat(tokenizer, template, messages, tools, thinking)
    for turn in chat.turns:
        if not turn.is_in(chat.whole.text):
            raise _rewritten(turn)
    return chat.encode(chat.whole.text, chat.turns)


def _rewritten(turn: Turn) -> InputError:
    return InputError(
        f'field "messages[{turn.index}]": the chat template rewrites this assistant turn when others follow '
        'it; train each turn on its own (chat.history = "split")'
    )


def training_examples(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], tools: Tools, config: ChatConfig
) -> list[tuple[list[int], list[bool]]]:
    """Returns the (ids, mask) examples of a chat, in which each assistant turn carries loss once, as first rendered.

    There is one example, unless the template rewrites earlier turns (Qwen3 removes their thinking) and
    `config.history` is "split". Then each turn that is rewritten later ends an example of its own, in which the
    turns that later examples lack carry loss.

    Raises:
      InputError: as for `encode_chat`; or the template writes today's date, or does not write the tools.
    """
    chat = _Chat(tokenizer, template, messages, tools, config.thinking)
    check_for_training(chat.whole, tools, template.where)
    examples = []
    left = list(chat.turns)
    text = chat.whole.text
    while left:
        here = [turn for turn in left if turn.is_in(text)]
        if here:
            examples.append(chat.encode(text, here))
        if config.history == "last":
            break
        left = [turn for turn in left if turn not in here]
        text = left[-1].rendered if left else ""
    if not examples:
        raise InputError(
            'field "messages": the chat template rewrites every assistant turn of this chat, so nothing carries '
            'loss; set chat.history = "split" or end the chat with an assistant turn'
        )
    return examples[::-1]


def encode_prompt(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], tools: Tools = ()
) -> list[int]:
    """Returns the ids of a chat up to the assistant's next turn; `encode_chat` of the chat with it begins with them."""
    chat = _Chat(tokenizer, template, messages, tools, "keep", prompt=True)
    return chat.encode(chat.whole.text, [])[0]


def encode_reply(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], reply: Message, tools: Tools = ()
) -> tuple[list[int], list[int]]:
    """Returns the ids before the assistant's reply, and those of the reply with the special token that closes it.

    Raises:
      InputError: as for `encode_chat`, but earlier turns may be rewritten.
    """
    ids, mask = encode_answer(tokenizer, template, messages, [reply], tools, trains=False)
    begin = mask.index(True)
    end = len(mask) - mask[::-1].index(True)
    return ids[:begin], ids[begin:end]


def encode_answer(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    answer: Sequence[Message],
    tools: Tools = (),
    thinking: str = "keep",
    *,
    trains: bool = True,
) -> tuple[list[int], list[bool]]:
    """Returns the ids of a chat, and its loss mask with loss on the assistant's turns in `answer`, its last messages.

    Raises:
      InputError: as for `encode_chat`, but turns before the answer may be rewritten; if `trains`, also for a template
        that writes today's date, or does not write the tools.
    """
    chat = _Chat(tokenizer, template, [*messages, *answer], tools, thinking)
    if trains:
        check_for_training(chat.whole, tools, template.where)
    turns = [turn for turn in chat.turns if turn.index >= len(messages)]
    for turn in turns:
        if not turn.is_in(chat.whole.text):
            raise _rewritten(turn)
    return chat.encode(chat.whole.text, turns)


def stop_ids(
    tokenizer: Tokenizer, template: ChatTemplate | None, generation_config: bytes | None = None
) -> tuple[int, ...]:
    """Returns the ids that end a reply, sorted.

    They are the special token with which the template closes a turn, the tokenizer's end token and its end of a
    document, and `eos_token_id` (one or a list) of `generation_config.json`.

    Raises:
      InputError: the template's turns cannot be found (see `encode_chat`), or the file is damaged.
    """
    found = {tokenizer.eos_id, tokenizer.document_end_id}
    if template is not None:
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids, mask = encode_chat(tokenizer, template, probe)
        found.add([i for i, loss in zip(ids, mask, strict=True) if loss][-1])
    if generation_config is not None:
        named = _json_object({GENERATION_FILE: generation_config}, GENERATION_FILE).get("eos_token_id")
        listed = named if isinstance(named, list) else [] if named is None else [named]
        for i in listed:
            if type(i) is not int or not 0 <= i < tokenizer.vocab_size:
                raise InputError(f"{GENERATION_FILE}: eos_token_id {i!r} is no id of the tokenizer; correct it")
        found.update(listed)
    return tuple(sorted(found))


class _Chat:
    """A chat, rendered whole and up to each assistant turn.

    Attributes:
      whole: the rendering of all messages; if `prompt`, with the generation prompt.
      turns: the assistant's turns in order; if `prompt`, without turns that cannot be found in the rendering, for
        which training refuses the chat.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        messages: Sequence[Message],
        tools: Tools,
        thinking: str,
        *,
        prompt: bool = False,
    ):
        self._tokenizer = tokenizer
        messages = [prepared(message, strip=thinking == "strip") for message in messages]
        self._shield, safe, safe_tools = chat_tokens.safe(tokenizer, messages, tools)
        spoken = [i for i, message in enumerate(safe) if message["role"] == "assistant"]
        ask = [(len(safe), prompt)]
        for i in spoken:
            ask += [(i, True), (i + 1, False)]
        if not prompt and spoken[-1:] == [len(safe) - 1]:
            ask.pop()  # the chat up to its last turn is the whole chat
        found = template.renders(safe, ask, safe_tools, tokenizer.named_specials)
        self.whole = found[0]
        if f"\\u{ord(self._shield):04x}" in self.whole.text.lower():
            raise InputError(
                f"{template.where}: it escapes non-ASCII characters in a text that spells a special token; "
                "remove the spelling from the messages or correct the template"
            )
        found = [*found[1:], self.whole]
        renderings = {i: (found[2 * n].text, found[2 * n + 1]) for n, i in enumerate(spoken)}
        self.turns = turns_of(
            safe, renderings, tokenizer.marker_pattern, mask_thinking=thinking == "mask", lenient=prompt
        )

    def encode(self, text: str, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        """Returns the ids of a rendering and its loss mask, with loss on `turns`; no token reaches into a turn."""
        loss = sorted(span for turn in turns for span in turn.loss)
        cuts = [turn.begin for turn in self.turns if turn.is_in(text)]
        return chat_tokens.encode(self._tokenizer, text, self._shield, cuts, loss)


def _json_object(files: Mapping[str, bytes], name: str, where: str = "") -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        value = json.loads(files[name])
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where}{name}: not JSON ({e}); copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}{name}: not a JSON object; copy it again")
    return value
