"""Refusals before any training: settings, and the files that they name, read as soon as they exist."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msm_jax.data import files as data_files
from msm_jax.errors import InputError
from msm_jax.experiments import address as address_lib
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.address import Addresses
from msm_jax.experiments.config import WORLD, ExperimentConfig
from msm_jax.experiments.plan import phase_configs, world_settings
from msm_jax.foundation import settings
from msm_jax.training.config import PhaseConfig


def check_settings(config: ExperimentConfig) -> None:
    """Build every part's settings; reads none of the files that they name.

    Raises:
      InputError: naming the field.
    """
    from msm_jax.models.presets import preset

    if config.world["kind"] == "miniworld":
        world_settings({key: value for key, value in config.world.items() if key != "kind"})
    if config.model:
        preset(config.model)
    graph = graph_lib.build(config)
    configs = phase_configs(config, graph)
    by_chain = {phase.chain: configs[phase.id] for phase in graph.phases.values()}
    for phase in graph.phases.values():
        _check_template(config, phase, configs[phase.id])
        _check_adapter(configs[phase.id], by_chain.get(phase.parent))
    for name, path in _items_of_evals(config):
        _eval_config(config, name, path)


def _check_template(config: ExperimentConfig, phase: graph_lib.Phase, built: PhaseConfig) -> None:
    """Refuse a phase that trains under another chat template than the phases before it, unless it says so."""
    named = [config.phases[name].get("chat_template", "") for name in phase.parent]
    before = next((path for path in reversed(named) if path), "")
    changes = bool(phase.parent) and built.chat_template not in ("", before)
    if changes and not built.replace_chat_template:
        raise InputError(
            f"phases.{built.name}.chat_template: the phases before it train under another; leave it empty, or "
            "set replace_chat_template"
        )


def _check_adapter(phase: PhaseConfig, before: PhaseConfig | None) -> None:
    """Refuse, before anything is trained, what `training.origin` would refuse of the adapter that it finds."""
    if before is None or before.lora is None or phase.adapter != "continue":
        return
    if phase.lora is None:
        raise InputError(
            f"phases.{phase.name}: follows {before.name}, which trains an adapter; set lora to train one, or "
            'adapter = "merge" to train all weights'
        )
    for name in ("rank", "alpha", "targets"):
        if getattr(phase.lora, name) != getattr(before.lora, name):
            raise InputError(
                f"phases.{phase.name}.lora.{name} = {getattr(phase.lora, name)!r}, but {before.name} before it has "
                f'{getattr(before.lora, name)!r}; set it to that, or adapter = "stack" or "merge" for a fresh one'
            )


def check_files(config: ExperimentConfig) -> None:
    """Find every file of the user's own, and read what evals ask.

    Raises:
      InputError: naming the file, and line and field where it holds something wrong.
    """
    from msm_jax.checkpoints import store
    from msm_jax.data.tokenizers import Tokenizer

    lacking = missing(config)
    if lacking:
        more = f" (and {len(lacking) - 1} more; --dry_run lists them all)" if len(lacking) > 1 else ""
        raise InputError(lacking[0] + more)
    if config.tokenizer.path:
        Tokenizer.load(config.tokenizer.path)
    if config.checkpoint:
        _check_shape(config, store.read_info(Path(config.checkpoint)))
    for name, path in _items_of_evals(config):
        _check_items(config, name, path)


def missing(config: ExperimentConfig) -> list[str]:
    """A line on each file or checkpoint that `config` names and that is not there: what it is, and how to get it."""
    from msm_jax.checkpoints import store

    lines: dict[str, str] = {}
    how = dict(config.provide)

    def look(path: str, find: Callable[[str], object]) -> None:
        if WORLD in path or path in lines:
            return
        try:
            find(path)
        except InputError as error:
            lines[path] = f"{path}: is not there; {how[path]}" if path in how else str(error)

    if config.checkpoint:
        look(config.checkpoint, lambda path: store.resolve(Path(path)))
    for path in config.tokenizer.train_on:
        look(path, data_files.resolve)
    for built in phase_configs(config, graph_lib.build(config)).values():
        for source in built.data.sources.values():
            look(source.path, data_files.resolve)
        if built.chat_template:
            look(built.chat_template, _find_template)
    for _, path in _items_of_evals(config):
        look(path, data_files.resolve)
    return list(lines.values())


def _find_template(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(
            f"chat_template {path}: no such file; check the path, or leave it empty for the built-in template"
        )


def _check_shape(config: ExperimentConfig, info: dict[str, Any]) -> None:
    """Refuse a checkpoint of another size than the experiment was written for."""
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


def check_items(addresses: Addresses) -> None:
    """Read every eval's items.

    Raises:
      InputError: a file cannot be used, naming file, line and field.
    """
    for measurement in addresses.graph.measurements.values():
        for name in measurement.evals:
            _check_items(addresses.config, name, addresses.items_of(measurement, name))


def _items_of_evals(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """(eval, path of its items) of everything that is measured, each once."""
    measured = graph_lib.build(config).measurements.values()
    yield from dict.fromkeys(item for measurement in measured for item in measurement.evals.items())


def _check_items(config: ExperimentConfig, name: str, path: str) -> None:
    from msm_jax.evals import kinds

    if WORLD not in path:
        kinds.check(_eval_config(config, name, path))


def _eval_config(config: ExperimentConfig, name: str, path: str) -> Any:
    from msm_jax.evals import kinds

    return kinds.build({**address_lib.eval_fields(config, name), "path": path}, f"evals.{name}")
