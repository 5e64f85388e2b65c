"""What a call and a reply are in Inspect's terms and in those of `sampling.model`. Inspect is not imported for it."""

import dataclasses
from typing import Any

from msm_jax.sampling.model import GenerateConfig, Message, Usage


def settings_of(config: GenerateConfig) -> dict[str, Any]:
    """Returns the settings that are given, by the names of Inspect's `GenerateConfig`."""
    asked = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    asked["stop_seqs"] = list(asked.pop("stop")) or None
    asked["num_choices"] = asked["num_choices"] if asked["num_choices"] > 1 else None
    return {name: value for name, value in asked.items() if value is not None}


def config_of(config: Any) -> GenerateConfig:
    """Returns an Inspect `GenerateConfig` as ours: the settings that both have."""
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    return GenerateConfig(
        **{name: getattr(config, name) for name in names},
        stop=tuple(config.stop_seqs or ()),
        num_choices=config.num_choices or 1,
    )


def message_of(message: Any) -> Message:
    """Returns a `ChatMessageAssistant` as a message with its text and, where there are any, its thoughts."""
    thinking = ""
    if isinstance(message.content, list):
        thinking = "\n".join(part.reasoning for part in message.content if part.type == "reasoning")
    found = {"role": "assistant", "content": message.text}
    return found | ({"reasoning_content": thinking} if thinking else {})


def usage_of(usage: Any) -> Usage | None:
    """Returns a `ModelUsage`, with the tokens that a provider's cache read or wrote among those of the input."""
    if not usage:
        return None
    cached = (usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)
    return Usage(usage.input_tokens + cached, usage.output_tokens)
