"""From chats to token ids, and which of these carry loss.

A template renders the messages (`templates`), and `chat_tokens` encodes the text. The assistant's words and the special
token that closes its turn carry loss; see `turns`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msm_jax.data import chat_tokens, templates
from msm_jax.data.config import ChatConfig
from msm_jax.data.templates import GENERATION_FILE, ChatTemplate, Message, Tools
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.data.turns import Turn, check_for_training, prepared, turns_of
from msm_jax.errors import InputError


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
        named = templates.json_object({GENERATION_FILE: generation_config}, GENERATION_FILE).get("eos_token_id")
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
