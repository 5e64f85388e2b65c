"""The provider `msm_jax/RUN` of Inspect: any task of Inspect's runs against a checkpoint of ours.

Inspect alone imports this module, through `inspect_entry`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from logging import getLogger
from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.sampling.checkpoint_model import CheckpointModel
from msm_jax.sampling.engine import Generation
from msm_jax.serving import hosts, logprobs, replies
from msm_jax.serving.host import requests_of

log = getLogger(__name__)

# As Inspect's other providers of local models: a reply without a limit of its own ends here.
_MAX_TOKENS = 2048
# Settings that ask for what the engine does not do.
_NOT_OFFERED = ("frequency_penalty", "presence_penalty", "logit_bias", "response_schema", "extra_body")
_ARGUMENTS = ("adapter", "slots", "cache_mib")


class CheckpointAPI(ModelAPI):
    """A checkpoint of ours as a model of Inspect's.

    Models of one checkpoint share an engine in the process, whatever their adapters.

    `tool_choice` "any" is taken as "auto", since nothing forces the model to call; "none" leaves the tools out of the
    prompt, and a named tool leaves out the others.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # as Inspect calls it
        adapter: str = "",
        slots: int | None = None,
        cache_mib: int | None = None,
        **unknown: Any,
    ) -> None:
        """Loads the checkpoint `model_name`.

        Args:
            model_name: a checkpoint, or a run directory for its newest one.
            base_url: as in Inspect; unused, like `api_key`.
            api_key: as in Inspect.
            config: as in Inspect.
            adapter: the path of an adapter on it (`-M adapter=PATH`).
            slots: the most replies that are drawn side by side; 32 unless it is given.
            cache_mib: MiB for the keys and values of requests; the engine chooses unless it is given.
            unknown: other arguments, which are refused.

        Raises:
            PrerequisiteError: the checkpoint or adapter cannot be used, or an argument is unknown or out of range.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        for name in unknown:
            raise PrerequisiteError(f"-M {name}: unknown argument; {settings.nearest(name, _ARGUMENTS)}")
        engine = {name: value for name, value in (("slots", slots), ("cache_mib", cache_mib)) if value is not None}
        for name, value in engine.items():
            if type(value) is not int:
                raise PrerequisiteError(f"-M {name}={value}: it must be an integer")
        try:
            self._host, self._adapter = hosts.get(model_name, adapter, **engine)
        except InputError as error:
            raise PrerequisiteError(f"msm_jax/{model_name}: {error}") from None
        self._dialect = self._host.dialects[self._adapter]
        if self._dialect.template is None:
            raise PrerequisiteError(f"msm_jax/{model_name}: the checkpoint has no chat template and cannot chat")
        self._scoring = None if adapter else CheckpointModel(self._host.engine, f"msm_jax/{model_name}")

    def scoring_model(self) -> CheckpointModel | None:
        """Returns the checkpoint as the model that gives log-probabilities; None where an adapter is on it.

        All calls go through one object, so that those which are awaited together share passes.
        """
        return self._scoring

    def takes_tools(self) -> bool:
        """Returns whether the chat template writes tools and calls; `generate` refuses tools where it does not."""
        return self._dialect.takes_tools

    def max_tokens(self) -> int | None:
        """Returns the limit of a reply without one of its own."""
        return _MAX_TOKENS

    def max_connections(self) -> int:
        """Returns how many requests are in flight unless --max-connections says otherwise: the slots twice over."""
        return 2 * int(self._host.engine.slots)

    def connection_key(self) -> str:
        """Returns the scope of the limit on connections: the checkpoint, since its adapters share slots."""
        return self.model_name

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Draws the replies to a chat.

        A prompt that is longer than the context gives an empty reply with the stop reason "model_length".

        Raises:
            InputError: the template refuses the messages or tools, or the messages hold more than text.
        """
        for name in _NOT_OFFERED:
            if getattr(config, name) is not None:
                log.warning("msm_jax/%s: %s is not supported and is left out", self.model_name, name)
        if tool_choice == "none":
            tools = []
        elif isinstance(tool_choice, ToolFunction):
            tools = [tool for tool in tools if tool.name == tool_choice.name]
        prompt = await self._prompt(input, tools)
        wanted = config.max_tokens or _MAX_TOKENS
        limit = min(wanted, self._host.room(prompt))
        if limit < 1:
            return ModelOutput.from_content(
                self.model_name, "", "model_length", f"the prompt has {len(prompt)} tokens, more than the context"
            )
        drawing = {
            "temperature": 1.0 if config.temperature is None else config.temperature,
            "top_p": 1.0 if config.top_p is None else config.top_p,
            "top_k": config.top_k or 0,
            "stop": tuple(config.stop_seqs or ()),
        }
        alternatives = (config.top_logprobs or 0) if config.logprobs else None
        seed = None if config.seed is None else config.seed % 2**31
        asked = requests_of(prompt, config.num_choices or 1, limit, drawing, seed, self._adapter, alternatives)
        found = await self._host.answers(asked)
        cut: StopReason = "max_tokens" if limit == wanted else "model_length"
        drawn = sum(len(each.ids) for each in found)
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(each, tools, cut) for each in found],
            usage=ModelUsage(input_tokens=len(prompt), output_tokens=drawn, total_tokens=len(prompt) + drawn),
        )

    async def count_tokens(self, input: str | list[ChatMessage], config: GenerateConfig | None = None) -> int:
        """Returns the tokens of a text, or of a chat as the template writes it for sampling."""
        if isinstance(input, str):
            return await self.count_text_tokens(input)
        return len(await self._prompt(input, []))

    async def count_text_tokens(self, text: str) -> int:
        """Returns the tokens of a text by the checkpoint's tokenizer."""
        return len(await self.tokenize(text))

    async def tokenize(self, text: str) -> list[int]:
        """Returns the ids of a text, without begin or end token."""
        return self._dialect.tokenizer.encode(text)

    async def _prompt(self, messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> list[int]:
        """Returns the ids of a chat; a foreign template renders in a process of its own, while others go on here."""
        return await asyncio.to_thread(self._dialect.chat_prompt, _messages(messages), [_tool(tool) for tool in tools])

    def _choice(self, generation: Generation, tools: Sequence[ToolInfo], cut: StopReason) -> ChatCompletionChoice:
        reply = replies.parse(generation.text, self._dialect.form, tools=bool(tools))
        content: str | list[Content] = reply.content
        if reply.reasoning:
            content = [ContentReasoning(reasoning=reply.reasoning), ContentText(text=reply.content)]
        calls = [
            ToolCall(id=f"call_{secrets.token_hex(8)}", function=call.name, arguments=dict(call.arguments))
            for call in reply.calls
        ]
        ended: StopReason = "tool_calls" if calls else "stop"
        message = ChatMessageAssistant(
            content=content, tool_calls=calls or None, model=self.model_name, source="generate"
        )
        reason = ended if generation.finish_reason == "stop" else cut
        return ChatCompletionChoice(message=message, stop_reason=reason, logprobs=self._logprobs(generation))

    def _logprobs(self, generation: Generation) -> Logprobs | None:
        if generation.logprobs is None:
            return None
        found = [
            Logprob(
                **_logprob(token),
                top_logprobs=[TopLogprob(**_logprob(each)) for each in token.top],
            )
            for token in logprobs.tokens(generation, self._dialect.tokenizer)
        ]
        return Logprobs(content=found)


def _logprob(token: logprobs.Token) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": token.bytes}


def _messages(given: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Returns messages in the form that chat templates take."""
    found = []
    for message in given:
        read: dict[str, Any] = {"role": message.role, "content": _text(message.content)}
        if isinstance(message, ChatMessageAssistant):
            thinking = [part for part in _parts(message.content) if isinstance(part, ContentReasoning)]
            if thinking:
                read["reasoning_content"] = "\n".join(part.text or part.reasoning for part in thinking)
            if message.tool_calls:
                read["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function, "arguments": call.arguments},
                    }
                    for call in message.tool_calls
                ]
        if isinstance(message, ChatMessageTool):
            # A tool that failed has told its error and no content.
            read["content"] = message.error.message if message.error else read["content"]
            known = {"name": message.function, "tool_call_id": message.tool_call_id}
            read |= {key: value for key, value in known.items() if value}
        found.append(read)
    return found


def _parts(content: str | list[Content]) -> list[Content]:
    return [] if isinstance(content, str) else content


def _text(content: str | list[Content]) -> str:
    """Returns the text of a content; refuses images and other media."""
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, (ContentText, ContentReasoning)):
            raise InputError(f"a message holds content of the type {part.type!r}; this model reads text alone")
    return "".join(part.text for part in content if isinstance(part, ContentText))


def _tool(tool: ToolInfo) -> dict[str, Any]:
    """Returns the description of a tool in OpenAI's form, which chat templates write."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters.model_dump(exclude_none=True),
        },
    }
