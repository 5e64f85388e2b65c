"""A model of Inspect's as a `sampling.model.Model`. Inspect is imported only when it is used.

Retries, rate limits, the number of connections, time-outs, its cache and its batch mode are Inspect's, and are set by
`WriterConfig.options`. No message of a provider reaches the user unless what may be a key has been taken out.
"""

import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import settings
from msm_jax.sampling import inspect_chat
from msm_jax.sampling.model import Capability, Choice, GenerateConfig, Message, ModelOutput
from msm_jax.synthesis.asking import WriterStopped
from msm_jax.synthesis.config import WriterConfig

# For what the options leave open: Inspect itself would retry for ever, and wait for ever for a connection that hangs.
DEFAULTS: Mapping[str, Any] = {"max_retries": 6, "attempt_timeout": 600}
# Statuses that the next call will meet too: the key, the account or the model's name is wrong.
_FOR_GOOD = {401, 402, 403, 404}
_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|credit balance is too low|billing", re.IGNORECASE)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
_SECRET = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|key)[-_][\w*-]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_MARKUP = re.compile(r"\[/?(?:bold|blue|red|link)[^\]]*\]")


def check_installed(where: str) -> None:
    """Refuses where Inspect is not installed.

    Raises:
        InputError: names the command that installs it.
    """
    try:
        import inspect_ai.model  # noqa: F401  # to see whether it is there
        import openai  # noqa: F401  # to see whether it is there
    except ImportError as error:
        raise InputError(
            f"{where}: needs the package {error.name or 'inspect_ai'}; run make inspect and use "
            ".venv-inspect/bin/python, or pip install 'msm_jax[inspect]'"
        ) from None


def get(config: WriterConfig, concurrency: int, where: str, api_key: str | None = None) -> Any:
    """Returns Inspect's model, which has not called anything yet; without `api_key` it finds its key by itself.

    Raises:
        InputError: Inspect, a provider's package or an API key is missing, or Inspect does not know the model or an
        option.
    """
    check_installed(where)
    from inspect_ai.model import GenerateConfig as InspectConfig
    from inspect_ai.model import get_model

    for name in config.options:
        if name not in InspectConfig.model_fields:
            raise InputError(f"{where}.options.{name}: unknown; {settings.nearest(name, InspectConfig.model_fields)}")
    options = {**DEFAULTS, **config.options}
    if "max_connections" not in options and not options.get("batch"):
        options["max_connections"] = concurrency
    try:
        built = InspectConfig(**settings.to_json(options))
        arguments = settings.to_json(config.arguments)
        url = config.base_url or None
        model = get_model(config.model, config=built, base_url=url, api_key=api_key, memoize=False, **arguments)
    except Exception as error:  # each provider has errors of its own for what it lacks
        message = _MARKUP.sub("", str(getattr(error, "message", error))).removeprefix("ERROR:").removeprefix("ERROR")
        raise InputError(f"{where}.model: {config.model}: {redacted(message)}{_remedy(message)}") from None
    # A quota that is used up comes as "too many requests", which Inspect would repeat for minutes.
    retries = model.api.should_retry
    model.api.should_retry = lambda error: False if _QUOTA.search(str(error)) else retries(error)
    return model


@contextlib.asynccontextmanager
async def opened(
    config: WriterConfig, concurrency: int, where: str, api_key: str | None = None
) -> AsyncIterator["InspectModel"]:
    """Yields a model, and closes its connections.

    Raises:
        InputError: as `get`.
    """
    async with get(config, concurrency, where, api_key) as model:
        yield InspectModel(model, config.model)


class InspectModel:
    """Implements `sampling.model.Model`, except for `score`, by a model of Inspect's."""

    def __init__(self, model: Any, name: str) -> None:
        """Wraps what `get` returns."""
        self.name = name
        self.capabilities: frozenset[Capability] = frozenset({"generate"})
        self._model = model

    async def generate(
        self,
        messages: Sequence[Message],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # frozen, so it can be shared
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> ModelOutput:
        """Implements `Model.generate`; the messages hold plain text.

        Raises:
            InputError: tools are given.
            WriterStopped: the provider refuses the key, the account or the model, so that no call will succeed.
            WorkError: the call failed after Inspect's retries.
        """
        from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser
        from inspect_ai.model import GenerateConfig as InspectConfig

        if tools:
            raise InputError(f"{self.name}: takes no tools here; ask without them")
        kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
        try:
            output = await self._model.generate(
                [kinds[message["role"]](content=message["content"]) for message in messages],
                config=InspectConfig(**inspect_chat.settings_of(config)),
            )
        except Exception as error:  # each provider's client has errors of its own
            raise _failure(self.name, error) from None
        choices = [Choice(inspect_chat.message_of(choice.message), choice.stop_reason) for choice in output.choices]
        return ModelOutput(tuple(choices), inspect_chat.usage_of(output.usage))

    async def score(self, context: str | Sequence[Message], continuations: Sequence[str]) -> Sequence[float]:
        """Refuses: `capabilities` does not list it.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name}: gives no log-probabilities; score with a checkpoint")


def redacted(message: str) -> str:
    """Returns a message in one line of at most 300 characters, without values of secret variables and what looks like
    a key."""
    text = " ".join(message.split())
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name.upper()):
            text = text.replace(value, "(key)")
    return _SECRET.sub("(key)", text)[:300]


def _failure(name: str, error: BaseException) -> WorkError:
    """Returns the error for a failed call, from what the provider said; the request is never part of it."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    status = next((code for each in chain if isinstance(code := getattr(each, "status_code", None), int)), None)
    # The first message of Inspect's own errors holds the request, which the last cause does not.
    said = str(getattr(chain[-1], "message", "") or chain[-1] or type(chain[-1]).__name__)
    place = f"{name}: {f'status {status}: ' if status else ''}{redacted(said)}"
    if status in _FOR_GOOD or _QUOTA.search(said):
        return WriterStopped(place)
    return WorkError(place)


def _remedy(message: str) -> str:
    variable = re.search(r"\b[A-Z][A-Z0-9]*_(?:API_KEY|BASE_URL|TOKEN)\b", message)
    return f"; set the variable {variable[0]}" if variable else ""
