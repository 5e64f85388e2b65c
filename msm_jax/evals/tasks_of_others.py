"""Tasks of Inspect, such as those of inspect-evals, run on a model that an eval asks: their names and their metrics.

Their data often come from a network. A task that cannot load them is reported and left out, so that the eval which asks
for it has its other results.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.sampling import inspect_chat
from msm_jax.sampling.model import Model

# Their versions are part of the address of a result.
DISTRIBUTIONS = ("inspect-ai", "inspect-evals")

_CONNECTIONS = 64
# Libraries that log each attempt of a download.
_LOUD = ("backoff", "datasets", "huggingface_hub", "inspect_evals")

_log = logging.getLogger(__name__)


def check(names: Sequence[str], where: str) -> None:
    """Refuses tasks that Inspect would not find: "PACKAGE/TASK", or "FILE.py@TASK".

    Raises:
        InputError: Inspect or the package is missing, or has no task of this name; `where` is the field.
    """
    for name in names:
        file, _, _ = name.partition("@")
        if file.endswith(".py"):
            if not Path(file).is_file():
                raise InputError(f"{where}: {name}: no such file; give the path of a file with tasks of Inspect")
            continue
        package, _, task = name.partition("/")
        found = [each for each in importlib.metadata.entry_points(group="inspect_ai") if each.name == package]
        if not found:
            raise InputError(
                f"{where}: {name} needs the package {package}; run make inspect and use .venv-inspect/bin/python"
            )
        tasks = vars(found[0].load())
        if task not in tasks:
            near = settings.nearest(task, [each for each in tasks if not each.startswith("_")])
            raise InputError(f"{where}: {package} has no task {task!r}; {near}")


async def metrics(model: Model, name: str, limit: int) -> dict[str, float]:
    """Runs one task on up to `limit` of its samples, and returns its metrics as "TASK, METRIC"; "TASK, ran" is 1, or 0.

    A line in the log says why it did not, and what to do.
    """
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    from inspect_ai import eval_async

    asked, log, why = _of_inspect(model), None, ""
    with tempfile.TemporaryDirectory() as logs, _quiet():
        try:
            (log,) = await eval_async(
                name, model=asked, limit=limit, log_dir=logs, log_samples=False, log_level="critical"
            )
        except Exception as error:  # a task is a program of others, and what it loads may fail in any way
            why = f"{type(error).__name__}: {error}"
    if log is not None and log.status == "success" and log.results is not None:
        found = [metric for score in log.results.scores for metric in score.metrics.values()]
        return {f"{name}, ran": 1.0, **{f"{name}, {metric.name}": float(metric.value) for metric in found}}
    if log is not None:
        why = log.error.message if log.error else log.status
    _log.warning(
        "%s did not run and is left out (%s). Where a network is, inspect eval %s --limit=1 fetches its data; then "
        "remove this result and run the same command again",
        name, " ".join(why.split())[:300], name,
    )  # fmt: skip
    return {f"{name}, ran": 0.0}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the attempts of a download out of the log, and takes away the handler that Inspect adds to it."""
    root, loud = logging.getLogger(), [logging.getLogger(name) for name in _LOUD]
    handlers, levels = root.handlers[:], [root.level, *(each.level for each in loud)]
    for each in loud:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for each, level in zip((root, *loud), levels, strict=True):
            each.setLevel(level)


def _of_inspect(model: Model) -> Any:
    """Returns a model as one of Inspect's, for tasks that need text alone."""
    from inspect_ai import model as of_inspect

    @of_inspect.modelapi(name="asked")
    class Asked(of_inspect.ModelAPI):
        """Asks the model, so that its replies are kept where the eval keeps them."""

        async def generate(self, input: Any, tools: Any, tool_choice: Any, config: Any) -> Any:
            """Implements Inspect's `ModelAPI.generate`.

            Raises:
                ValueError: the task offers tools, which this form of a model does not take.
            """
            if tools:
                raise ValueError("it needs tools; run it by itself: inspect eval TASK --model=msm_jax/RUN")
            messages = [{"role": each.role, "content": each.text} for each in input]
            output = await model.generate(messages, inspect_chat.config_of(config))
            choices = [
                of_inspect.ChatCompletionChoice(
                    message=of_inspect.ChatMessageAssistant(content=str(choice.message["content"])),
                    stop_reason=choice.stop_reason,
                )
                for choice in output.choices
            ]
            return of_inspect.ModelOutput(model=model.name, choices=choices)

    return of_inspect.Model(Asked(model.name), of_inspect.GenerateConfig(max_connections=_CONNECTIONS))
