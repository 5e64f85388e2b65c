"""The checks before any training: of the settings, and of the files that they name, as soon as these exist."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.experiments import context as context_lib
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments import nodes
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.context import Context
from msm_jax.foundation import settings


def check_settings(config: ExperimentConfig) -> Context:
    """Builds the settings of every node, and decides how each phase starts; reads no data.

    Returns:
      What is known from the settings alone, which includes the settings of each phase.

    Raises:
      InputError: a setting is refused; the message names the field.
    """
    from msm_jax.models.presets import preset

    if config.model:
        preset(config.model)
    _check_measures(config)
    known = context_lib.unread(config, graph_lib.build(config))
    for node in known.graph.nodes:
        where = "world.kind" if node.id == graph_lib.WORLD else f"corpora.{node.id}.kind"
        nodes.find(node.kind, where).check(node, known)
    return known


def _check_measures(config: ExperimentConfig) -> None:
    """Refuses contrasts in a measure that the kind of their eval does not give."""
    from msm_jax.evals import kinds

    for name, contrast in config.contrasts.items():
        if contrast.measure != "share":
            kind = config.evals[contrast.eval].get("kind", "")
            if contrast.measure not in kinds.find(kind, f"evals.{contrast.eval}.kind").measures:
                raise InputError(
                    f"contrasts.{name}.measure: {contrast.eval} is of the kind {kind}, which gives no "
                    f"{contrast.measure}; remove it for shares"
                )


def check_files(known: Context) -> None:
    """Finds every file that the user provides and every judge, and reads the files that evals and other nodes check.

    Args:
      known: as `check_settings` returns it.

    Raises:
      InputError: a file is missing or cannot be used, and the message names the file, and the line and field at fault;
        or a judge cannot be asked.
    """
    lacking = [*missing(known), *unasked(known)]
    if lacking:
        more = f" (and {len(lacking) - 1} more; --dry_run lists them all)" if len(lacking) > 1 else ""
        raise InputError(lacking[0] + more)
    check_content(known)


def check_content(known: Context) -> None:
    """Reads the files that evals and other nodes check, none of which is missing.

    Raises:
      InputError: a file cannot be used; the message names the file, and the line and field at fault.
    """
    from msm_jax.checkpoints import store
    from msm_jax.data.tokenizers import Tokenizer

    config = known.config
    if config.tokenizer.path:
        Tokenizer.load(config.tokenizer.path)
    if config.checkpoint:
        _check_shape(config, store.read_info(Path(config.checkpoint)))
    read_files(known)


def read_files(known: Context) -> None:
    """Reads the files of each node that exist by now.

    Raises:
      InputError: a file cannot be used; the message names file, line and field.
    """
    for node in known.graph.nodes:
        nodes.find(node.kind).check_files(node, known)


def missing(known: Context) -> list[str]:
    """Returns a line on each file or checkpoint that the experiment names and that does not exist: what it is, and how
    to get it.
    """
    from msm_jax.checkpoints import store

    config = known.config
    lines: dict[str, str] = {}
    how = dict(config.provide)

    def look(path: str, find: Callable[[str], object]) -> None:
        if known.awaits(path) or path in lines:
            return
        try:
            find(path)
        except InputError as error:
            lines[path] = f"{path}: does not exist; {how[path]}" if path in how else str(error)

    if config.checkpoint:
        look(config.checkpoint, lambda path: store.resolve(Path(path)))
    for path in config.tokenizer.train_on:
        look(path, known.resolve)
    for built in known.phase_configs.values():
        for source in built.data.sources.values():
            look(source.path, known.resolve)
        if built.chat_template:
            look(built.chat_template, _find_template)
    for measurement in known.graph.measurements.values():
        for path in measurement.evals.values():
            look(path, known.resolve)
    return list(lines.values())


def unasked(known: Context) -> list[str]:
    """Returns a line on each judge that cannot be asked: what it lacks, and how to get it."""
    from msm_jax.experiments import replies
    from msm_jax.experiments.nodes import evals

    lines = []
    for name, fields in known.config.evals.items():
        try:
            replies.check(evals.config_of(name, str(fields.get("path") or "items"), known), f"evals.{name}")
        except InputError as error:
            lines.append(str(error))
    for name, book in known.config.code_books.items():
        try:
            replies.check_pinned(book.judge, f"code_books.{name}.judge")
        except InputError as error:
            lines.append(str(error))
    return lines


def _find_template(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(
            f"chat_template {path}: no such file; check the path, or leave it empty for the built-in template"
        )


def _check_shape(config: ExperimentConfig, info: dict[str, Any]) -> None:
    """Refuses a checkpoint of another size than that of the model for which the experiment was written."""
    from msm_jax.models.presets import preset

    if not config.model:
        return
    wanted = settings.to_json(preset(config.model))
    found = info.get("model", {})
    for field in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size", "qkv_bias", "qk_norm"):
        if found.get(field) != wanted[field]:
            raise InputError(
                f"{config.checkpoint}: its model has {field} = {found.get(field)}, but {config.model} has "
                f"{wanted[field]}; convert the checkpoint that the experiment names, or set model to ''"
            )
