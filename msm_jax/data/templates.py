"""Chat templates: messages to token ids, and which of them carry loss.

A template is Jinja source as Hugging Face checkpoints carry it, rendered in Jinja's sandbox. The rendered
text is split at the control pieces of the tokenizer (`<|user|>`, `<|end|>`, ...), which become their ids; the
text between two of them is encoded on its own, and so is what an assistant says, apart from any text that the
template puts before it. A message that spells a marker does not make one: such spellings are broken by a
character that is taken out again after the split.

Loss falls on what the assistant says and on the marker that closes its turn.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox

from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

Message = Mapping[str, str]

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Unicode promises that these are never characters, so a text that holds one of them hardly exists.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template; `source` is its Jinja text."""

    source: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        self._compiled  # noqa: B018  (a syntax error is refused here)

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @functools.cached_property
    def _compiled(self) -> jinja2.Template:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateSyntaxError as e:
            raise InputError(f"chat template:{e.lineno}: {e.message}; correct the template") from None

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        *,
        bos_token: str = "",
        eos_token: str = "",
    ) -> str:
        """The chat as text, to be read; to get ids use `encode_chat`, which is safe from markers in messages.

        Raises:
          InputError: the template refuses the messages or fails on them.
        """
        try:
            return self._compiled.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=bos_token,
                eos_token=eos_token,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as e:
            raise InputError(f"chat template: {e}; correct the template or the messages") from None


def encode_chat(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """The ids of a chat, from the begin token on, and for each id whether it carries loss.

    There is no end token unless the template writes one: the marker that closes the last turn ends the chat.

    Raises:
      InputError: what the template makes of an assistant turn is not its opener, the content (white space
        around it aside) and a marker; the message names the turn.
    """
    return _encode(tokenizer, template, messages, add_generation_prompt=False)


def encode_prompt(tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message]) -> list[int]:
    """The ids of a chat up to where the assistant speaks: with its answer, `encode_chat` begins with them."""
    return _encode(tokenizer, template, messages, add_generation_prompt=True)[0]


def stop_ids(tokenizer: Tokenizer, template: ChatTemplate) -> tuple[int, ...]:
    """The ids that end an assistant turn: the marker that the template closes it with, and the end token."""
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids, mask = encode_chat(tokenizer, template, probe)
    closing = [i for i, loss in zip(ids, mask, strict=True) if loss][-1]
    return tuple(sorted({closing, tokenizer.eos_id}))


def _encode(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], add_generation_prompt: bool
) -> tuple[list[int], list[bool]]:
    markers = tokenizer.specials
    marker_pattern = _marker_pattern(tuple(markers))
    shield = _unused_character(messages)
    safe = [{**m, "content": _shielded(m["content"], tuple(markers), shield)} for m in messages]
    render = _renderer(tokenizer, template)
    text = render(safe, add_generation_prompt)

    # Begin of what the assistant says -> end of the marker that closes it.
    turns: dict[int, int] = {}
    for i, message in enumerate(safe):
        if message["role"] == "assistant":
            opener = render(safe[:i], True)
            closing = marker_pattern.search(text, len(opener))
            said = text[len(opener) : closing.start()] if closing else None
            if not text.startswith(opener) or said is None or said.strip() != message["content"].strip():
                raise InputError(
                    f'field "messages[{i}]": the chat template does not write this assistant turn as opener, '
                    "content and closing marker, so what carries loss is uncertain; use another template"
                )
            turns[len(opener)] = closing.end() if closing else 0

    ids: list[int] = []
    mask: list[bool] = []
    loss_until = 0

    def add_text(start: int, stop: int) -> None:
        run = tokenizer.encode(text[start:stop].replace(shield, ""))
        ids.extend(run)
        mask.extend([start < loss_until] * len(run))

    at = 0
    cuts = sorted(
        [(start, None) for start in turns] + [(m.start(), m) for m in marker_pattern.finditer(text)],
        key=lambda cut: (cut[0], cut[1] is not None),
    )
    for start, marker in cuts:
        add_text(at, start)
        at = start
        if marker is None:
            loss_until = turns[start]
        else:
            ids.append(markers[marker.group()])
            mask.append(start < loss_until)
            at = marker.end()
    add_text(at, len(text))
    if ids[:1] != [tokenizer.bos_id]:
        ids.insert(0, tokenizer.bos_id)
        mask.insert(0, False)
    return ids, mask


def _renderer(tokenizer: Tokenizer, template: ChatTemplate) -> Callable[[Sequence[Message], bool], str]:
    pieces = {i: piece for piece, i in tokenizer.specials.items()}
    return functools.partial(
        template.render, bos_token=pieces[tokenizer.bos_id], eos_token=pieces[tokenizer.eos_id]
    )


@functools.lru_cache
def _marker_pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(m) for m in sorted(markers, key=len, reverse=True)))


def _unused_character(messages: Sequence[Message]) -> str:
    for character in _NONCHARACTERS:
        if not any(character in m["content"] for m in messages):
            return character
    raise InputError('field "messages" holds all of U+FDD0 to U+FDEF, which are not characters; remove one')


def _shielded(content: str, markers: tuple[str, ...], shield: str) -> str:
    """`content` with every marker broken, and parts of one at its edges, which a template may complete."""
    if not any(character in content for character in {m[0] for m in markers} | {m[-1] for m in markers}):
        return content
    content = _marker_pattern(markers).sub(lambda m: m.group()[0] + shield + m.group()[1:], content)
    head = len(content) - len(content.lstrip())
    tail = len(content.rstrip())
    begins = max(
        (k for m in markers for k in range(1, len(m)) if content.endswith(m[:k], 0, tail)), default=0
    )
    if begins:
        content = content[: tail - begins + 1] + shield + content[tail - begins + 1 :]
    ends = max((k for m in markers for k in range(1, len(m)) if content.startswith(m[-k:], head)), default=0)
    if ends:
        content = content[: head + ends - 1] + shield + content[head + ends - 1 :]
    return content


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))
