"""Refusals before any training: settings, and the files that they name, read as soon as they exist."""

from pathlib import Path

from msm_jax import settings
from msm_jax.data import sources as data_sources
from msm_jax.errors import InputError
from msm_jax.experiments import address as address_lib
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.address import Addresses, Inputs
from msm_jax.experiments.config import WORLD, ExperimentConfig
from msm_jax.experiments.plan import world_settings
from msm_jax.training.config import PhaseConfig


def check_settings(config: ExperimentConfig) -> None:
    """Build every part's settings, and find every file of the user's own.

    Raises:
      InputError: naming the field, or the file and line.
    """
    from msm_jax.checkpoints import store
    from msm_jax.data.tokenizers import Tokenizer

    if config.world["kind"] == "miniworld":
        world_settings({key: value for key, value in config.world.items() if key != "kind"})
    if config.tokenizer.path:
        Tokenizer.load(config.tokenizer.path)
    for path in config.tokenizer.train_on:
        _find(path)
    if config.checkpoint:
        store.read_info(Path(config.checkpoint))
    graph = graph_lib.build(config)
    # "{world}" and the rest stand for directories that need not exist yet.
    inputs = Inputs(WORLD, config.tokenizer.path or "tokenizer")
    built_phases: dict[tuple[str, ...], PhaseConfig] = {}
    for phase in graph.phases.values():
        start = "parent" if phase.parent else config.checkpoint
        built = address_lib.phase_config(config, phase, inputs, start, Path("workdir"))
        built_phases[phase.chain] = built
        _check_adapter(built, built_phases.get(phase.parent))
        for source in built.data.sources.values():
            _find(source.path)
        if built.chat_template and not Path(built.chat_template).is_file():
            raise InputError(
                f"phases.{built.name}.chat_template: {built.chat_template}: no such file; "
                "check the path, or leave it empty for the built-in template"
            )
        named = [config.phases[name].get("chat_template", "") for name in phase.parent]
        before = next((path for path in reversed(named) if path), "")
        changes = bool(phase.parent) and built.chat_template not in ("", before)
        if changes and not built.replace_chat_template:
            raise InputError(
                f"phases.{built.name}.chat_template: the phases before it train under another; leave it empty, or "
                "set replace_chat_template"
            )
    for measurement in graph.measurements.values():
        for name, path in measurement.evals.items():
            _check_eval(config, name, path)


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


def _find(path: str) -> None:
    if WORLD not in path:
        data_sources.resolve_paths(path)


def check_items(addresses: Addresses) -> None:
    """Read every eval's items.

    Raises:
      InputError: a file cannot be used, naming file, line and field.
    """
    for measurement in addresses.graph.measurements.values():
        for name in measurement.evals:
            _check_eval(addresses.config, name, addresses.items_of(measurement, name))


def _check_eval(config: ExperimentConfig, name: str, path: str) -> None:
    from msm_jax.evals import items
    from msm_jax.evals.config import EvalConfig

    fields = {**address_lib.eval_fields(config, name), "path": path}
    built = settings.build(EvalConfig, fields, f"evals.{name}")
    if WORLD not in path:
        items.check(built)
