"""The evals of this package as tasks of Inspect: `inspect eval msm_jax/NAME --model=MODEL -T FIELD=VALUE`.

A task has one sample for each item. A sample runs the eval's own kind on its item, so that scores are those of
`evaluate`. The fields of a kind's settings are the arguments of its task (`-T path=FILE`), and a judge has the model
role "judge" (`--model-role judge=MODEL`). Inspect alone imports this module.
"""

from __future__ import annotations

import asyncio
import functools
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inspect_ai import Task, task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, Model, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from msm_jax.errors import InputError
from msm_jax.evals import kinds
from msm_jax.evals.inspect_models import TaskModel
from msm_jax.evals.interface import EvalConfig, EvalResult

_RESULT = "msm_jax result"


@task
def agentic_misalignment(**fields: Any) -> Task:
    """A grid of scenarios and goal conditions in which a model can act against those it works for."""
    return _task("agentic_misalignment", fields)


@task
def alignment_faking(**fields: Any) -> Task:
    """Whether a model complies more where it believes that it is being trained, as a judge says."""
    return _task("alignment_faking", fields)


@task
def alignment_faking_choice(**fields: Any) -> Task:
    """The same by the log-probabilities of written replies, without a judge."""
    return _task("alignment_faking_choice", fields)


@task
def capability(**fields: Any) -> Task:
    """What a model can still do: language, format, arithmetic, tool calls, over-refusal, omission.

    Raises:
        PrerequisiteError: further tasks are named, which Inspect cannot run inside of one.
    """
    if fields.get("tasks"):
        raise PrerequisiteError("msm_jax/capability: -T tasks: run these tasks by themselves: inspect eval TASK")
    return _task("capability", fields)


@task
def forced_choice_misalignment(**fields: Any) -> Task:
    """Situations with two written actions, one harmful, compared by log-probability in both orders."""
    return _task("forced_choice_misalignment", fields)


@task
def knowledge(**fields: Any) -> Task:
    """Which continuation of a text is the most likely; -T path=FILE."""
    return _task("knowledge", fields)


@task
def knowledge_recall(**fields: Any) -> Task:
    """What a model says when it is asked openly about a spec, as a judge finds its assertions; -T path=FILE."""
    return _task("knowledge_recall", fields)


@task
def open_qa(**fields: Any) -> Task:
    """Direct questions about how an assistant would act, judged from 1 to 10 by one neutral rubric."""
    return _task("open_qa", fields)


@task
def opinions(**fields: Any) -> Task:
    """Multiple-choice questions with rotated options, by the log-probability of letters; -T path=FILE."""
    return _task("opinions", fields)


@task
def preference(**fields: Any) -> Task:
    """Which of two answers is the more likely, in both orders of the options; -T path=FILE."""
    return _task("preference", fields)


@task
def preference_greedy(**fields: Any) -> Task:
    """Which of two options the greedy answer names, in both orders; -T path=FILE."""
    return _task("preference_greedy", fields)


@task
def reasoning(**fields: Any) -> Task:
    """Which reasons a model gives in the transcripts of another eval, by a code book; -T of='{"kind": …}'."""
    return _task("reasoning", fields)


def _task(name: str, fields: Mapping[str, Any]) -> Task:
    """Returns the task of a kind of eval.

    Raises:
        PrerequisiteError: the settings or the items cannot be used.
    """
    hints = typing.get_type_hints(kinds.find(name, "kind").settings)
    lists = [field for field, hint in hints.items() if typing.get_origin(hint) is tuple]
    # On its command line, Inspect makes a list of "a,b" and a text of "a".
    given = {field: [value] if field in lists and isinstance(value, str) else value for field, value in fields.items()}
    try:
        config = kinds.build({"kind": name, **given}, "-T")
        items = kinds.find(name, "kind").read(config)
    except InputError as error:
        raise PrerequisiteError(f"msm_jax/{name}: {error}") from None
    samples = [Sample(input=item.id, id=item.id, metadata={"index": index}) for index, item in enumerate(items)]
    return Task(dataset=MemoryDataset(samples, name), solver=_runs(config, items), scorer=_scores())


@functools.cache
def _wrapped(model: Model) -> TaskModel:
    return TaskModel(model)


@solver
def _runs(config: EvalConfig, items: Sequence[Any]) -> Solver:
    """Runs a kind on the item of a sample."""
    kind = kinds.find(config.kind, "kind")
    # The trial of the judge, which the first sample begins and all others wait for.
    tried: list[asyncio.Future[dict[str, float]]] = []

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        # Without `required`, Inspect would let the model under test judge itself.
        named = {role: get_model(role=role, required=True) for role in kind.needs if role != "model"}
        models = {role: _wrapped(model) for role, model in {"model": get_model(), **named}.items()}
        try:
            kinds.check_models(models, config)
            if not tried:
                tried.append(asyncio.ensure_future(kind.agreement(models, config)))
            agreement = await tried[0]
            result = await kind.run(models, [items[state.metadata["index"]]], config)
        except InputError as error:
            raise PrerequisiteError(f"msm_jax/{config.kind}: {error}") from None
        state.store.set(_RESULT, {**result.to_json(), "rates": {**result.rates, **agreement}})
        state.messages = _shown(result)
        state.output.completion = str(state.messages[-1].content)
        return state

    return solve


def _shown(result: EvalResult) -> list[ChatMessage]:
    """Returns the chat that a sample shows: its first transcript, or its values where nothing was generated."""
    if not result.transcripts:
        return [ChatMessageAssistant(content=json.dumps(result.items[0], ensure_ascii=False, indent=1))]
    made: dict[str, Callable[..., ChatMessage]] = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    first = result.transcripts[0]
    chat = [made[message["role"]](content=message["content"]) for message in first["prompt"]]
    return [*chat, ChatMessageAssistant(content=first["reply"])]


@scorer(metrics=[mean(), stderr()], name="msm_jax")
def _scores() -> Scorer:
    """Takes the score that the kind gave, or the mean where it made several items of one; without any there is none."""

    async def score(state: TaskState, target: Target) -> Score | None:
        result = state.store.get(_RESULT)
        items = result["items"]
        of_item = items[0] if len(items) == 1 else {"items": items}
        metadata = {**of_item, "rates": result["rates"], "transcripts": result["transcripts"]}
        if result["mean"] is None:
            return Score.unscored(explanation="no answer could be parsed", metadata=metadata)
        return Score(value=result["mean"], metadata=metadata)

    return score
