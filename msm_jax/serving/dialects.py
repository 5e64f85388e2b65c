"""How a model is spoken to: its tokenizer, its chat template, and the form in which that writes replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax.checkpoints import compose
from msm_jax.data import encoding
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.serving import formats
from msm_jax.serving.formats import ReplyFormat


@dataclass(frozen=True)
class Dialect:
    """How the base or one adapter is spoken to.

    Attributes:
        tokenizer: the tokenizer; all adapters have the base's.
        template: the chat template with which the adapter was trained; None if there is none.
        form: how the template writes replies.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    form: ReplyFormat

    @property
    def takes_tools(self) -> bool:
        """Whether `chat_prompt` takes tools."""
        return self.form.writes_tools and self.form.calls is not None

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        """Returns the ids of a chat up to the assistant's reply.

        Raises:
            InputError: there is no chat template, or it refuses the messages, does not write tools, or writes calls in
                a form that is not read.
        """
        if self.template is None:
            raise InputError("the checkpoint has no chat template and cannot chat; continue plain text with it")
        if tools and not self.form.writes_tools:
            raise InputError("the chat template does not write tools; ask without tools")
        if tools and self.form.calls is None:
            raise InputError("the chat template does not write tool calls as JSON objects; ask without tools")
        return encoding.encode_prompt(self.tokenizer, self.template, messages, tools)


def of_checkpoint(checkpoint: Path | str, adapter: Path | str = "") -> Dialect:
    """Reads the dialect of a checkpoint, or of an adapter on it.

    Raises:
        InputError: one of them is none or damaged, or they do not fit each other.
    """
    tokenizer, template = compose.read_texts(compose.find(checkpoint, adapter))
    return Dialect(tokenizer, template, ReplyFormat() if template is None else formats.of_template(template, tokenizer))
