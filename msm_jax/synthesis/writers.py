"""Opens writers: models that Inspect reaches, our own checkpoints, and the scripted server."""

import contextlib
import dataclasses
import importlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.sampling.model import GenerateConfig, Message, Model, ModelOutput
from msm_jax.synthesis import inspect_model
from msm_jax.synthesis.config import CHECKPOINT, PYTHON, SCRIPTED, WriterConfig

_SAMPLING_OPTIONS = ("temperature", "top_p", "top_k")


def check(config: WriterConfig, where: str) -> None:
    """Refuses a writer that cannot be asked, before anything is called.

    Raises:
        InputError: a package or an API key is missing (the message names the command or the variable), Inspect does not
            know the model or an option, or the checkpoint does not exist.
    """
    if config.model.startswith(CHECKPOINT):
        from msm_jax.checkpoints import store

        store.resolve(config.model.removeprefix(CHECKPOINT))
        unknown = config.options.keys() - _SAMPLING_OPTIONS
        if unknown or config.arguments:
            name = min(unknown | config.arguments.keys())
            near = settings.nearest(name, _SAMPLING_OPTIONS)
            raise InputError(f"{where}: {name} does not apply to a checkpoint; {near}")
    elif config.model.startswith(PYTHON):
        _function(config, where)
    elif config.model == SCRIPTED:
        inspect_model.check_installed(where)
        _server_settings(config, where)
    else:
        inspect_model.get(config, 1, where)


def are_spread(configs: Mapping[str, WriterConfig]) -> bool:
    """Returns whether calls are to begin one after the other; a checkpoint answers those together that come
    together."""
    return not any(config.model.startswith(CHECKPOINT) for config in configs.values())


def identity(config: WriterConfig) -> str:
    """Returns the name under which a writer's replies are kept: its model, and for a run directory its newest
    checkpoint.

    Raises:
        InputError: the checkpoint does not exist.
    """
    if not config.model.startswith(CHECKPOINT):
        return config.model
    from msm_jax.checkpoints import store

    return f"{CHECKPOINT}{store.resolve(config.model.removeprefix(CHECKPOINT))}"


@contextlib.asynccontextmanager
async def opened(config: WriterConfig, concurrency: int, where: str) -> AsyncIterator[Model]:
    """Yields a writer that answers up to `concurrency` calls at a time.

    Raises:
        InputError: as `check`.
    """
    if config.model.startswith(CHECKPOINT):
        yield _checkpoint(config, concurrency)
    elif config.model.startswith(PYTHON):
        yield _function(config, where)(**config.arguments)
    elif config.model == SCRIPTED:
        from msm_jax.synthesis.scripted import process

        with process.running(_server_settings(config, where)) as url:
            served = WriterConfig("openai-api/scripted/writer", url, config.options)
            async with inspect_model.opened(served, concurrency, where, api_key="none") as model:
                yield model
    else:
        async with inspect_model.opened(config, concurrency, where) as model:
            yield model


def _function(config: WriterConfig, where: str) -> Callable[..., Model]:
    """Returns the function of "python:MODULE:FUNCTION"."""
    module, _, name = config.model.removeprefix(PYTHON).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise InputError(f"{where}.model: {config.model}: {error}; put its file on PYTHONPATH") from None


def _server_settings(config: WriterConfig, where: str) -> Any:
    from msm_jax.synthesis.scripted import server

    return settings.build(server.Settings, config.arguments, f"{where}.arguments")


def _checkpoint(config: WriterConfig, concurrency: int) -> Model:
    from msm_jax.sampling.checkpoint_model import CheckpointModel
    from msm_jax.sampling.engine import Engine

    path = config.model.removeprefix(CHECKPOINT)
    model = CheckpointModel(Engine.from_checkpoint(path, slots=min(concurrency, 64)), path)
    if "generate" not in model.capabilities:
        raise InputError(f"{path}: has no chat template and cannot reply; take a checkpoint that was trained on chats")
    return _WithDefaults(model, config.options)


class _WithDefaults:
    """A checkpoint with settings for the calls that do not set them."""

    def __init__(self, model: Model, defaults: Mapping[str, Any]) -> None:
        self.name = model.name
        self.capabilities = model.capabilities
        self.score = model.score
        self._model = model
        self._defaults = defaults

    async def generate(
        self,
        messages: Sequence[Message],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # frozen, so it can be shared
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> ModelOutput:
        """Implements `Model.generate`."""
        unset = {name: value for name, value in self._defaults.items() if getattr(config, name) is None}
        return await self._model.generate(messages, dataclasses.replace(config, **unset), tools)
