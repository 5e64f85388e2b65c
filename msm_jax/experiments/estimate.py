"""How long nodes will take: by the rates of earlier runs in the working directory, else a guess by FLOPs."""

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

# What the demo's nodes took on a core (0.3M parameters): a phase's products, its start, and an eval.
_FLOPS_PER_CORE = 4.5e10
_START_SECONDS = 2.0
_EVAL_SECONDS = 0.5
# Beyond this a guess for CPU cores says nothing: the model is meant for accelerators.
LONGEST_GUESS = 100 * 3600.0


def tokens(config: PhaseConfig) -> int:
    """Slots that the phase's batches hold, padding included."""
    return config.steps * config.batch_rows * config.data.seq_len


@dataclasses.dataclass(frozen=True)
class Rates:
    """Measured speeds: tokens/s by (phase, devices, threads), and seconds by eval."""

    phases: Mapping[tuple[str, int, int], float]
    evals: Mapping[str, float]

    def phase_seconds(self, config: PhaseConfig, parameters: float) -> tuple[float, bool]:
        """Seconds for a phase, and whether that is measured rather than guessed.

        A phase that has not run yet is taken to be as fast as the slowest one with the same devices and
        threads.
        """
        kind = (config.mesh.size, config.threads)
        alike = [rate for (_, *other), rate in self.phases.items() if tuple(other) == kind]
        rate = self.phases.get((config.name, *kind)) or min(alike, default=0.0)
        if rate:
            return tokens(config) / rate, True
        cores = max(kind)
        return _START_SECONDS + 6 * parameters * tokens(config) / (cores * _FLOPS_PER_CORE), False

    def eval_seconds(self, names: Mapping[str, Any]) -> tuple[float, bool]:
        """Seconds for these evals of one checkpoint, and whether all of them are measured."""
        return sum(self.evals.get(name, _EVAL_SECONDS) for name in names), names.keys() <= self.evals.keys()


def measured(store: Path) -> Rates:
    """The rates of everything that is done in `store`; of several runs of a phase, their median."""
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
    """How many parameters the phase's model has, 0 where its checkpoint alone says so."""
    from msm_jax.models.presets import PRESETS

    return _parameters(config.preset, tuple(config.model_overrides.items())) if config.preset in PRESETS else 0


def parameters_of_model(config: ExperimentConfig) -> int:
    """How many parameters the model has that the experiment's checkpoint must hold, 0 where any may come."""
    return _parameters(config.model, ()) if config.model else 0


def adapter_parameters(config: ExperimentConfig, phases: Iterable[PhaseConfig]) -> list[int]:
    """The sizes of adapters that the phases train beside `config.model`, each once."""
    from msm_jax.models import lora
    from msm_jax.models.presets import preset

    model = preset(config.model)
    settings = {phase.lora for phase in phases if phase.lora is not None}
    return sorted(
        {model.num_layers * each.rank * sum(sum(lora.sizes(model, name)) for name in each.targets) for each in settings}
    )


@functools.cache
def _parameters(name: str, overrides: tuple[tuple[str, Any], ...]) -> int:
    from msm_jax.models import transformer
    from msm_jax.models.presets import preset

    return transformer.count_params(preset(name, **dict(overrides)))
