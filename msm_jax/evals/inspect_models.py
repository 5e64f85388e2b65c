"""A model of Inspect's as a `sampling.model.Model`, inside a sample of an Inspect task.

Every call goes through Inspect, so that its logs hold it, its limits hold, and its cache and retries serve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import inspect_ai.model as of_inspect
from inspect_ai.tool import ToolInfo, ToolParams

from msm_jax.errors import InputError
from msm_jax.sampling import inspect_chat
from msm_jax.sampling.model import Capability, Choice, GenerateConfig, Message, ModelOutput

_MESSAGES = {
    "system": of_inspect.ChatMessageSystem,
    "user": of_inspect.ChatMessageUser,
    "assistant": of_inspect.ChatMessageAssistant,
}


class TaskModel:
    """Implements `sampling.model.Model`. Only checkpoints of ours, `msm_jax/RUN`, give log-probabilities."""

    def __init__(self, model: of_inspect.Model) -> None:
        """Wraps a model of the task that is running."""
        self.name = str(model)
        self._model = model
        self._scoring = getattr(model.api, "scoring_model", lambda: None)()
        generates: frozenset[Capability] = frozenset({"generate"})
        self.capabilities: frozenset[Capability] = self._scoring.capabilities if self._scoring else generates
        self._takes_tools = getattr(model.api, "takes_tools", lambda: True)()

    async def generate(
        self,
        messages: Sequence[Message],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # frozen, so it can be shared
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> ModelOutput:
        """Implements `Model.generate`; calls of tools come as in `ModelOutput` of checkpoints: as text.

        A checkpoint of ours whose template does not write tools is asked without them, as `evaluate` asks it.
        """
        output = await self._model.generate(
            [_MESSAGES[message["role"]](content=message["content"]) for message in messages],
            tools=[_tool(tool) for tool in tools] if self._takes_tools else [],
            config=of_inspect.GenerateConfig(**inspect_chat.settings_of(config)),
        )
        choices = [Choice(_message(choice.message), _reason(choice.stop_reason)) for choice in output.choices]
        return ModelOutput(tuple(choices), inspect_chat.usage_of(output.usage))

    async def score(self, context: str | Sequence[Message], continuations: Sequence[str]) -> Sequence[float]:
        """Implements `Model.score`.

        Raises:
            InputError: the model gives no log-probabilities.
        """
        if self._scoring is None:
            raise InputError(f"{self.name}: gives no log-probabilities; take a checkpoint, --model=msm_jax/RUN")
        return await self._scoring.score(context, continuations)


def _tool(tool: Mapping[str, Any]) -> ToolInfo:
    function = tool["function"]
    parameters = ToolParams.model_validate(function["parameters"])
    return ToolInfo(name=function["name"], description=function["description"], parameters=parameters)


def _message(message: of_inspect.ChatMessageAssistant) -> Message:
    """Returns a reply with its calls as text after it, each a line of JSON."""
    found = inspect_chat.message_of(message)
    calls = [json.dumps({"name": call.function, "arguments": call.arguments}) for call in message.tool_calls or ()]
    return {**found, "content": "\n".join([found["content"], *calls])}


def _reason(reason: str) -> Any:
    return reason if reason in ("stop", "max_tokens", "model_length", "tool_calls", "content_filter") else "unknown"
