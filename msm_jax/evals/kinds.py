"""The kinds of evals: finds the module of a kind by name, builds its settings, checks its items and runs it."""

import asyncio
import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.evals.interface import EvalConfig, EvalKind, EvalResult
from msm_jax.evals.judging import JudgeConfig
from msm_jax.foundation import hashing, settings
from msm_jax.sampling.model import ABILITIES, Capability, Model

KINDS: dict[str, str] = {
    "preference": "msm_jax.evals.preference",
    "preference_probability": "msm_jax.evals.preference",
    "preference_greedy": "msm_jax.evals.preference",
    "knowledge": "msm_jax.evals.knowledge",
    "forced_choice_misalignment": "msm_jax.evals.forced_choice",
    "agentic_misalignment": "msm_jax.evals.agentic",
    "alignment_faking": "msm_jax.evals.alignment_faking",
    "alignment_faking_choice": "msm_jax.evals.alignment_faking",
    "capability": "msm_jax.evals.capability",
    "open_qa": "msm_jax.evals.open_qa",
    "opinions": "msm_jax.evals.opinions",
    "reasoning": "msm_jax.evals.reasoning",
    "knowledge_recall": "msm_jax.evals.recall",
}


def find(name: str, where: str) -> EvalKind:
    """Imports the kind `name`: one of `KINDS`, or the dotted name of a module that defines `KIND`.

    Raises:
        InputError: there is no such kind; `where` is the field that names it.
    """
    is_module = "." in name and all(part.isidentifier() for part in name.split("."))
    if name not in KINDS and not is_module:
        raise InputError(f"{where}: {name!r} is unknown; {settings.nearest(name, KINDS)}")
    dotted = sources(name)
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if not f"{dotted}.".startswith(f"{error.name}."):
            raise
        advice = f"put its file on PYTHONPATH, or choose one of {', '.join(KINDS)}"
        raise InputError(f"{where}: module {name} does not exist; {advice}") from None
    kind = getattr(module, "KINDS", {}).get(name, getattr(module, "KIND", None))
    if not isinstance(kind, EvalKind):
        raise InputError(f"{where}: module {name} defines no KIND; define one, an evals.interface.EvalKind")
    return kind


def build(fields: Mapping[str, Any], where: str) -> EvalConfig:
    """Builds the settings of an eval by its kind; without a path they name the items that come with the kind.

    Raises:
        InputError: the kind is unknown, or a field is missing, unknown to the kind or of a wrong type; `where` prefixes
            the field's name.
    """
    plain = settings.plain(fields)
    kind = plain.get("kind") if isinstance(plain, Mapping) else None
    if not isinstance(kind, str):
        return settings.build(EvalConfig, plain, where)
    found = find(kind, f"{where}.kind")
    return settings.build(found.settings, {"path": found.items, **plain} if found.items else plain, where)


def path_of(fields: Mapping[str, Any]) -> str:
    """Returns the path in the settings of an eval, or that of the items that come with its kind; "" for neither."""
    kind = fields.get("kind")
    return str(fields.get("path") or (find(kind, "kind").items if kind in KINDS else ""))


def check(config: EvalConfig) -> int:
    """Returns the number of items of an eval; needs no model.

    Raises:
        InputError: the item file cannot be used; names file, line and field.
    """
    return len(find(config.kind, "kind").read(config))


def check_models(models: Mapping[str, Model], config: EvalConfig) -> None:
    """Refuses models that an eval cannot use.

    Raises:
        InputError: a role has no model, or the model in it lacks a capability that the kind needs.
    """
    for role, needed in find(config.kind, "kind").needs.items():
        if role not in models:
            raise InputError(f'evals of kind {config.kind} need a model in the role "{role}"; name one')
        _check_capabilities(models[role], needed, config)


def check_model(model: Model, config: EvalConfig) -> None:
    """Refuses a model under test that lacks a capability which an eval needs; its judge may not be open yet.

    Raises:
        InputError: names the eval's kind, the model and what it cannot do.
    """
    _check_capabilities(model, find(config.kind, "kind").needs["model"], config)


def _check_capabilities(model: Model, needed: frozenset[Capability], config: EvalConfig) -> None:
    lacking = " or ".join(ABILITIES[each] for each in sorted(needed - model.capabilities))
    if lacking:
        raise InputError(
            f"evals of kind {config.kind} cannot use {model.name}, which cannot {lacking}; choose another "
            "model or kind (a checkpoint can chat if it has a chat template)"
        )


def run(models: Mapping[str, Model], config: EvalConfig) -> EvalResult:
    """Reads the items of an eval, asks the models (by role; "model" is the one under test) and scores the answers.

    Raises:
        InputError: as in `check` and `check_models`, or a model cannot take an item, for example because of its length.
        WorkError: a model failed, for example because its weights are not finite.
    """
    return asyncio.run(answer(models, config))


async def answer(models: Mapping[str, Model], config: EvalConfig) -> EvalResult:
    """Does what `run` does, inside an event loop."""
    check_models(models, config)
    kind = find(config.kind, "kind")
    items = kind.read(config)
    agreement = await kind.agreement(models, config)
    result = await kind.run(models, items, config)
    return dataclasses.replace(result, rates={**result.rates, **agreement})


def judge_of(config: EvalConfig, where: str) -> JudgeConfig | None:
    """Returns the judge in the settings of an eval, None for a kind that needs none.

    Raises:
        InputError: the kind needs a judge and none is set.
    """
    if "judge" not in find(config.kind, "kind").needs:
        return None
    judge = getattr(config, "judge", None)
    if judge is None:
        raise InputError(f"{where}.judge: is not set; name a judge by its model and version")
    return judge


def files(config: EvalConfig) -> tuple[str, ...]:
    """Returns the data paths on which the result of an eval depends, that of its items first."""
    return (config.path, *find(config.kind, "kind").files(config))


def packages(config: EvalConfig) -> tuple[str, ...]:
    """Returns the distributions that decide the result of an eval beside those of every eval."""
    return find(config.kind, "kind").packages(config)


def sources(name: str) -> str:
    """Returns the dotted name of the module that defines the kind `name`; its imports decide the kind's results."""
    return KINDS.get(name, name)


def source_hashes(name: str) -> dict[str, str]:
    """Returns {source file: SHA-256} of the code that decides a kind's results, the models apart.

    These are the files that importing its module runs, within its own top package. For a module outside this package
    all built-in kinds count as well, because it may import any of them.
    """
    if name in KINDS:
        return hashing.sources_of(KINDS[name])
    file = Path(inspect.getfile(importlib.import_module(name)))
    root = file.parents[name.count(".") + (file.name == "__init__.py")]
    ours = {file: sha for module in KINDS.values() for file, sha in hashing.sources_of(module).items()}
    return ours | hashing.sources_of(name, root)
