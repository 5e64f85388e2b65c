"""The protocol by which evals, judges and document generation speak to a model: in chats and texts, not token ids.

It follows `generate` of the Inspect framework in shape: messages, tools and a config go in; choices, each with a reason
for stopping, and the usage come out. A checkpoint is such a model (`sampling.checkpoint_model`). So is any object with
the same attributes, for example an adapter of a model behind an API, or a model that a test makes up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Message = Mapping[str, Any]
Capability = Literal["generate", "score_chat", "score_text"]
StopReason = Literal["stop", "max_tokens", "model_length", "tool_calls", "content_filter", "unknown"]

# What each capability means, as a phrase that follows "can" or "cannot".
ABILITIES: Mapping[Capability, str] = {
    "generate": "reply in a chat",
    "score_chat": "score given replies in a chat",
    "score_text": "score given continuations of a text",
}


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of one `generate` call. None leaves a setting at the model's own default.

    Attributes:
        max_tokens: the most tokens that a reply may have.
        temperature: divides the logits; 0 takes the most likely token each time (greedy).
        top_p: draws only from the most likely tokens that have this probability together.
        top_k: draws only from the k most likely tokens.
        seed: draws the same reply to the same messages each time. Choice i has the seed `seed` + i. Calls with equal
            seeds are not independent draws, so a caller that wants independent replies gives each call its own seed.
        stop: strings; a reply ends before the first occurrence of any of them.
        num_choices: how many replies to draw.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_choices: int = 1


@dataclass(frozen=True)
class Choice:
    """One reply: a message of the role "assistant" (its text in "content"), and why it ended."""

    message: Message
    stop_reason: StopReason


@dataclass(frozen=True)
class Usage:
    """Tokens of one call: those of the messages, and those of all choices together."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class ModelOutput:
    """What `generate` returns; `usage` is None where the model does not count tokens."""

    choices: tuple[Choice, ...]
    usage: Usage | None = None

    @property
    def completion(self) -> str:
        """Returns the text of the first choice."""
        return str(self.choices[0].message["content"])


class Model(Protocol):
    """A model that evals can ask. Hundreds of calls may be in flight at a time.

    Attributes:
        name: what messages to the user call the model.
        capabilities: which calls the model answers. "generate" stands for `generate`, "score_chat" for `score` with
            messages as the context, "score_text" for `score` with a text. A model may lack the method of a capability
            that it does not list.
    """

    name: str
    capabilities: frozenset[Capability]

    async def generate(
        self, messages: Sequence[Message], config: GenerateConfig = ..., tools: Sequence[Mapping[str, Any]] = ...
    ) -> ModelOutput:
        """Replies to a chat.

        Args:
            messages: {"role", "content", ...} each, as in chat data; the last one is not the assistant's.
            config: how to draw the reply.
            tools: descriptions of functions that the model may call.

        Raises:
            InputError: the model cannot take these messages or settings.
            WorkError: the model failed.
        """

    async def score(self, context: str | Sequence[Message], continuations: Sequence[str]) -> Sequence[float]:
        """Returns the log-probability (nats, summed over tokens) of each continuation of one context.

        Args:
            context: the messages of a chat, or a plain text.
            continuations: in a chat, replies of the assistant; the end of turn that closes a reply is scored with it.
                After a text, strings that follow it exactly as they are written. A tokenizer may join the end of the
                text with the start of a continuation, so all continuations of one call are scored from the same place
                on: the first token that differs from the tokens of the text alone in any of them.

        Raises:
            InputError: the context and a continuation are longer than the model takes.
            WorkError: the model failed.
        """
