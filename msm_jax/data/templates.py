"""Chat templates: messages to token ids, and which of them carry loss.

A template is Jinja source as Hugging Face checkpoints carry it. A foreign one is rendered in a process of its own
(see `template_process`); what it is told besides the messages (`enable_thinking`, a date) belongs to it as
`variables`. What becomes of the rendered text is in `chat_tokens`.

Loss falls on what the assistant says and on the special that closes its turn; see `turns`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.data import chat_rendering, chat_tokens, template_process
from msm_jax.data.config import ChatConfig
from msm_jax.data.tokenizers import CONFIG_FILE, Tokenizer
from msm_jax.data.turns import Rendered, Turn, prepared, turns_of
from msm_jax.errors import InputError
from msm_jax.foundation import hashing, storage

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]

TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
# Where transformers puts those of several named templates that are not the default.
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
      source: its Jinja text.
      variables: what it is told besides messages, tools and the special pieces; plain JSON values.
      where: how errors name it.
    """

    source: str = DEFAULT_TEMPLATE
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = dataclasses.field(default="chat template", compare=False)

    def __post_init__(self) -> None:
        """Refuse what does not compile."""
        self.renders([], [])

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 of the source."""
        return hashing.sha256(self.source.encode())

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        *,
        tools: Tools = (),
        **named_specials: str,
    ) -> str:
        """The chat as text, to be read; to get ids use `encode_chat`, which is safe from specials in messages.

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
        """The first messages as text, for each (number of them, add_generation_prompt) in `ask`.

        Raises:
          InputError: like `render`.
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


# The built-in template is ours, so it runs here.
_TRUSTED: dict[str, chat_rendering.Rendering] = {}


def find_source(files: Mapping[str, bytes], where: str = "") -> str | None:
    """The chat template among the files of a checkpoint or Hugging Face directory; None where there is none.

    It is `chat_template.jinja`, else the one in `tokenizer_config.json`; of a list of named templates, "default".

    Raises:
      InputError: a file that is not text, or named templates without a default.
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
    """What refuses named templates of which none is the default: to leave them out would be to chat in another form."""
    return InputError(
        f"{where}: none of its chat templates is named default (there are {', '.join(sorted(names)) or 'none'}); "
        f"save the one to use as {TEMPLATE_FILE} in a Hugging Face directory of the model"
    )


def find_source_in(directory: Path, files: Mapping[str, bytes]) -> str | None:
    """`find_source` of a directory of which the files were read; None where it holds no template at all.

    Raises:
      InputError: like `find_source`; or it has named templates in a folder of their own, and no default.
    """
    found = find_source(files, f"{directory}/")
    others = [path.stem for path in (directory / _NAMED_TEMPLATES).glob("*.jinja")]
    if found is None and others:
        raise no_default(f"{directory / _NAMED_TEMPLATES}", others)
    return found


def of_checkpoint(info: Mapping[str, Any], assets: Mapping[str, bytes], where: str = "") -> ChatTemplate | None:
    """The template that a checkpoint was trained with, and what it was told; None where it has none.

    Raises:
      InputError: it is damaged.
    """
    if TEMPLATE_FILE not in assets:
        return None
    source = find_source({TEMPLATE_FILE: assets[TEMPLATE_FILE]}, where) or ""
    return ChatTemplate(source, info.get("chat_variables", {}), f"{where}{TEMPLATE_FILE}")


def files(template: ChatTemplate | None) -> dict[str, bytes]:
    """File name -> bytes: what a checkpoint holds of its template."""
    return {} if template is None else {TEMPLATE_FILE: template.source.encode("utf-8")}


def for_transformers(assets: Mapping[str, bytes]) -> dict[str, bytes]:
    """The tokenizer and template files of an export: no file tells another template than `chat_template.jinja`.

    Older readers take the template from `tokenizer_config.json`, so where one stands there it is replaced.
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
    """The ids of a chat, and for each id whether it carries loss.

    There is no end token unless the template writes one: the special that closes the last turn ends the chat.

    Raises:
      InputError: what the template makes of an assistant turn is not its opener, the content (white space
        around it aside), its thinking and tool calls, and a special; or the template writes the turn otherwise
        once others follow. The message names the turn.
    """
    chat = _Chat(tokenizer, template, messages, tools, thinking)
    for turn in chat.turns:
        if not turn.is_in(chat.whole.text):
            raise InputError(
                f'field "messages[{turn.index}]": the chat template rewrites this assistant turn once others follow '
                'it, so it is not what was said; train each turn on its own (chat.history = "split")'
            )
    return chat.encode(chat.whole.text, chat.turns)


def training_examples(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], tools: Tools, config: ChatConfig
) -> list[tuple[list[int], list[bool]]]:
    """The (ids, mask) of a chat, in which each assistant turn carries loss once, as it stood when it was said.

    One, unless the template rewrites earlier turns (Qwen3 takes out their thinking) and `config.history` is
    "split": then also the chat up to each turn that was rewritten later, with loss on what the later ones lack.

    Raises:
      InputError: see `encode_chat`; or the template writes today's date, or leaves the tools out.
    """
    chat = _Chat(tokenizer, template, messages, tools, config.thinking)
    if chat.whole.dated:
        raise InputError(
            f"{template.where}: it writes today's date, so that tomorrow's run would train on other text; set the "
            'variable that it reads in its place in data.chat.variables (Llama 3 has "date_string")'
        )
    for n, tool in enumerate(tools):
        name = tool.get("function", tool).get("name", "")
        if name not in chat.whole.text:
            raise InputError(
                f'field "tools[{n}]": the chat template does not write it, so the model never sees {name}; remove '
                '"tools", or use a template that writes them'
            )
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
    """The ids of a chat up to where the assistant speaks: with its answer, `encode_chat` begins with them."""
    chat = _Chat(tokenizer, template, messages, tools, "keep", prompt=True)
    return chat.encode(chat.whole.text, [])[0]


def encode_reply(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], reply: Message, tools: Tools = ()
) -> tuple[list[int], list[int]]:
    """The ids up to where the assistant speaks, and those of its reply with the special that closes the turn.

    Raises:
      InputError: see `encode_chat`; earlier turns may be rewritten.
    """
    chat = _Chat(tokenizer, template, [*messages, reply], tools, "keep")
    ids, mask = chat.encode(chat.whole.text, chat.turns[-1:])
    begin = mask.index(True)
    end = len(mask) - mask[::-1].index(True)
    return ids[:begin], ids[begin:end]


def stop_ids(
    tokenizer: Tokenizer, template: ChatTemplate | None, generation_config: bytes | None = None
) -> tuple[int, ...]:
    """The ids that end a reply.

    They are the special that the template closes a turn with, the tokenizer's end token and its end of a document,
    and `eos_token_id` (one or a list) of `generation_config.json`.

    Raises:
      InputError: the template's turns cannot be read (see `encode_chat`), or the file is damaged.
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
    """A chat rendered whole and up to each assistant turn.

    Attributes:
      whole: the rendering of all messages, for `prompt` with the generation prompt.
      turns: what the assistant says, in order; for `prompt` without those that cannot be read, where training on
        the chat would be refused.
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
            ask.pop()  # the last turn ends the chat, which is rendered already
        found = template.renders(safe, ask, safe_tools, tokenizer.named_specials)
        self.whole = found[0]
        if f"\\u{ord(self._shield):04x}" in self.whole.text.lower():
            raise InputError(
                f"{template.where}: it escapes what is not ASCII in a text that spells a special token; "
                "remove the spelling from the messages or correct the template"
            )
        found = [*found[1:], self.whole]
        renderings = {i: (found[2 * n].text, found[2 * n + 1]) for n, i in enumerate(spoken)}
        self.turns = turns_of(
            safe, renderings, tokenizer.marker_pattern, mask_thinking=thinking == "mask", lenient=prompt
        )

    def encode(self, text: str, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        """The ids of a rendering, with loss on the turns that are given; the prompt of every turn is cut off."""
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
