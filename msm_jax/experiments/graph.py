"""The nodes of an experiment: which phases, evals and directories its arms and seeds come to.

Equal prefixes of chains are one node per seed, and one node for all seeds while every phase in them is
shared.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping

from msm_jax.experiments.config import ExperimentConfig

WORLD = "world"
TOKENIZER = "tokenizer"
REPORT = "report"


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training run: the last phase of `chain`, after the others. `seed` is None for a shared one."""

    chain: tuple[str, ...]
    seed: int | None
    name: str

    @property
    def id(self) -> str:
        """Names the node between runs, whatever its configuration."""
        return "/".join(["phase", *self.chain, *_seed(self.seed)])

    @property
    def parent(self) -> tuple[str, ...]:
        """The chain before this phase."""
        return self.chain[:-1]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The evals {name: path of its items} of one checkpoint, the experiment's own for an empty chain."""

    chain: tuple[str, ...]
    seed: int | None
    name: str
    evals: Mapping[str, str]

    @property
    def id(self) -> str:
        """Names the node between runs."""
        return "/".join(["eval", *(self.chain or ["(checkpoint)"]), *_seed(self.seed)])


@dataclasses.dataclass(frozen=True)
class Graph:
    """All nodes, parents before children. Phases and measurements are found by (chain, seed or None)."""

    phases: Mapping[tuple[tuple[str, ...], int | None], Phase]
    measurements: Mapping[tuple[tuple[str, ...], int | None], Measurement]
    has_world: bool
    has_tokenizer: bool


def build(config: ExperimentConfig) -> Graph:
    """The graph of `config`."""
    phases: dict[tuple[tuple[str, ...], int | None], Phase] = {}
    evals: dict[tuple[tuple[str, ...], int | None], dict[str, str]] = {}
    for seed in config.seeds:
        for chain in config.arms.values():
            for end in range(1, len(chain) + 1):
                prefix = chain[:end]
                key = (prefix, seed_of(config, prefix, seed))
                phases.setdefault(key, Phase(prefix, key[1], _name(config, prefix, key[1])))
            for eval_name, fields in config.evals.items():
                for prefix, path in measured_after(chain, fields):
                    key = (prefix, seed_of(config, prefix, seed))
                    evals.setdefault(key, {})[eval_name] = path
    measurements = {
        (chain, seed): Measurement(chain, seed, _name(config, chain, seed), paths)
        for (chain, seed), paths in evals.items()
    }
    trains = bool(config.tokenizer.train_on) and bool(phases)
    return Graph(phases, measurements, config.world["kind"] != "none", trains)


def measured_after(chain: tuple[str, ...], fields: Mapping[str, object]) -> list[tuple[tuple[str, ...], str]]:
    """The prefixes of `chain` after which an eval is measured, each with the path of its items.

    Without `after` that is the whole chain.
    """
    after = fields.get("after")
    if not isinstance(after, Mapping) or not after:
        return [(chain, str(fields.get("path", "")))]
    return [(chain[: end + 1], after[phase]) for end, phase in enumerate(chain) if phase in after]


def seed_of(config: ExperimentConfig, chain: tuple[str, ...], seed: int) -> int | None:
    """The experiment's seed that the run of `chain` has: None where every phase in it is shared."""
    return None if is_shared(config, chain) else seed


def is_shared(config: ExperimentConfig, chain: tuple[str, ...]) -> bool:
    """Returns whether one run of `chain` serves all seeds."""
    return all(phase in config.shared for phase in chain)


def phase_seed(config: ExperimentConfig, phase: str, seed: int | None) -> int:
    """The seed of one training run, 31 bits.

    It depends on the phase's *name* and the experiment's seed and on nothing before the phase, so that a
    phase of one name reads the same data in the same order in every arm of a seed. Shared phases take the
    world's seed in place of the experiment's, so that another world is another pretraining.
    """
    source = f"world {config.world.get('seed', 0)}" if seed is None else f"seed {seed}"
    return int.from_bytes(hashlib.sha256(f"{source}, phase {phase}".encode()).digest()[:4], "big") >> 1


def without_seed(node_id: str) -> str:
    """Returns the id of a node without the seed in which it may end."""
    return re.sub(r"/seed\d+$", "", node_id)


def _name(config: ExperimentConfig, chain: tuple[str, ...], seed: int | None) -> str:
    """The start of a node's directory name: the phases that are not shared, or the last one, and the seed."""
    own = [phase for phase in chain if phase not in config.shared] or list(chain[-1:]) or ["checkpoint"]
    return ".".join([*own, *_seed(seed)])


def _seed(seed: int | None) -> list[str]:
    return [] if seed is None else [f"seed{seed}"]
