"""Estimates of how long nodes will take: by the speeds of earlier runs in the store, otherwise by a bound on the
accelerators that the experiment is meant for, otherwise by their FLOPs on CPU cores."""

import dataclasses
import functools
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msm_jax.experiments.config import ExperimentConfig
from msm_jax.experiments.nodes.interface import DONE, NODE
from msm_jax.foundation import storage
from msm_jax.training.config import PhaseConfig

# Measured on one core with the demo's nodes (0.3M parameters): FLOP/s of a phase, its start-up, and an eval.
_FLOPS_PER_CORE = 4.5e10
_START_SECONDS = 2.0
_EVAL_SECONDS = 0.5
CONVENTION = (
    "≥ is the least time on {chip} chips by arithmetic and memory, as `plan` bounds it, without their links, which "
    "need the compiler; a run takes longer"
)
# A longer guess for CPU cores means nothing, because such a model is meant for accelerators.
LONGEST_GUESS = 100 * 3600.0


def tokens(config: PhaseConfig) -> int:
    """Returns the number of slots in the batches of a phase, padding included."""
    return config.steps * config.batch_rows * config.data.seq_len


@dataclasses.dataclass(frozen=True)
class Rates:
    """Measured speeds: tokens/s by (phase, devices, threads), and seconds by eval."""

    phases: Mapping[tuple[str, int, int], float]
    evals: Mapping[str, float]

    def phase_seconds(self, config: PhaseConfig, parameters: float) -> tuple[float, bool]:
        """Returns the seconds for a phase, and whether they follow from measured speeds.

        A phase that has not run yet is assumed to be as fast as the slowest one with the same devices and threads.
        """
        kind = (config.mesh.size, config.threads)
        alike = [rate for (_, *other), rate in self.phases.items() if tuple(other) == kind]
        rate = self.phases.get((config.name, *kind)) or min(alike, default=0.0)
        if rate:
            return tokens(config) / rate, True
        cores = max(kind)
        return _START_SECONDS + 6 * parameters * tokens(config) / (cores * _FLOPS_PER_CORE), False

    def eval_seconds(self, names: Mapping[str, Any]) -> tuple[float, bool]:
        """Returns the seconds for these evals of one checkpoint, and whether all of them are measured."""
        return sum(self.evals.get(name, _EVAL_SECONDS) for name in names), names.keys() <= self.evals.keys()


def measured(store: Path) -> Rates:
    """Returns the speeds of all finished nodes in `store`, as the median over the runs of a phase or eval."""
    phases: dict[tuple[str, int, int], list[float]] = {}
    for done_path in sorted((store / "phases").glob(f"*/{DONE}")):
        done, node = storage.find_json(done_path), storage.find_json(done_path.with_name(NODE))
        if done is not None and node is not None and done["result"]["wall_seconds"] > 0:
            payload = node["payload"]
            key = (payload["config"]["name"], payload["devices"], payload["threads"])
            config = payload["config"]
            slots = config["steps"] * config["batch_rows"] * config["data"]["seq_len"]
            phases.setdefault(key, []).append(slots / done["result"]["wall_seconds"])
    evals: dict[str, list[float]] = {}
    for path in sorted((store / "evals").glob("*/times.json")):
        for name, seconds in (storage.find_json(path) or {}).items():
            evals.setdefault(name, []).append(seconds)
    return Rates(
        {key: statistics.median(rates) for key, rates in phases.items()},
        {name: statistics.median(seconds) for name, seconds in evals.items()},
    )


def largest_model(config: ExperimentConfig, phases: Iterable[PhaseConfig]) -> int:
    """Returns the number of parameters of the largest model that is known."""
    return max(parameters_of_model(config), *(parameters_of(phase) for phase in phases), 0)


def parameters_of(config: PhaseConfig) -> int:
    """Returns the number of parameters of a phase's model, 0 if only its checkpoint tells."""
    from msm_jax.models.presets import PRESETS

    return _parameters(config.preset, tuple(config.model_overrides.items())) if config.preset in PRESETS else 0


def parameters_of_model(config: ExperimentConfig) -> int:
    """Returns the number of parameters of `config.model`, 0 if the experiment names none."""
    return _parameters(config.model, ()) if config.model else 0


def adapter_parameters(config: ExperimentConfig, phases: Iterable[PhaseConfig]) -> list[int]:
    """Returns the sizes of the adapters that the phases train on `config.model`, in ascending order, each once."""
    from msm_jax.models import lora
    from msm_jax.models.presets import preset

    model = preset(config.model)
    settings = {phase.lora for phase in phases if phase.lora is not None}
    return sorted(
        {model.num_layers * each.rank * sum(sum(lora.sizes(model, name)) for name in each.targets) for each in settings}
    )


def least_seconds(config: PhaseConfig, experiment: ExperimentConfig) -> float | None:
    """Returns the least seconds of a phase on the accelerators that an experiment is meant for, without their links.

    None where the experiment names no accelerator, or only a checkpoint tells the model.
    """
    from msm_jax.models.presets import preset
    from msm_jax.planning import bounds, chips
    from msm_jax.training import program

    if not experiment.accelerator or not (config.preset or experiment.model):
        return None
    name = config.preset or experiment.model
    built = program.of_phase(config, preset(name, **config.model_overrides), config.lora, ())
    return config.steps * bounds.bound(built, config.mesh, chips.NAMED[experiment.accelerator]).seconds


@functools.cache
def _parameters(name: str, overrides: tuple[tuple[str, Any], ...]) -> int:
    from msm_jax.models import transformer
    from msm_jax.models.presets import preset

    return transformer.count_params(preset(name, **dict(overrides)))
