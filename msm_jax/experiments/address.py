"""Where each node's result lives: a directory named by the hash of everything the result depends on.

World and tokenizer are addressed by their settings and sources, and what follows by the *bytes* they
produced: a change of the generator that leaves the text as it was trains nothing again. So the addresses of
phases and evals are known once world and tokenizer exist.
"""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msm_jax.data import files as data_files
from msm_jax.errors import InputError
from msm_jax.evals import kinds
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig, substitute
from msm_jax.experiments.files import read_json
from msm_jax.foundation import hashing, settings
from msm_jax.training.config import PhaseConfig

DONE = "done.json"
NODE = "node.json"
TIMES = "times.json"


@dataclasses.dataclass(frozen=True)
class Address:
    """A node's place. `payload` is what its hash is taken of; `path` a directory, or an eval's JSON file."""

    id: str
    payload: Mapping[str, Any]
    path: Path

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the payload, 64 hex digits."""
        return hashing.digest(self.payload)

    def description(self) -> dict[str, Any]:
        """What is stored beside the result, so that its hash can be explained."""
        return {"id": self.id, "hash": self.hash, "payload": self.payload}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What phases and evals read: the directories of the world and the tokenizer, "" for none."""

    world_dir: str
    tokenizer_dir: str


def _place(workdir: Path, room: str, name: str, node_id: str, payload: Mapping[str, Any]) -> Address:
    return Address(node_id, payload, workdir / room / f"{name}-{hashing.digest(payload)[:12]}")


def world(config: ExperimentConfig, world_config: Mapping[str, Any], workdir: Path) -> Address:
    """The address of the generated world. `world_config` is its complete settings as JSON."""
    from msm_jax.miniworld import generate

    payload = {
        "config": dict(world_config),
        "specs": _tree(str(generate.SPEC_DIR)),
        "sources": hashing.sources_of("msm_jax.miniworld.generate"),
    }
    return _place(workdir, "worlds", str(config.world["kind"]), graph_lib.WORLD, payload)


def tokenizer(config: ExperimentConfig, world_dir: str, workdir: Path) -> Address:
    """The address of the tokenizer trained here.

    Raises:
      InputError: a file to train it on is missing.
    """
    paths = substitute(config.tokenizer.train_on, world_dir)
    payload = {
        "config": {"vocab_size": config.tokenizer.vocab_size},
        "texts": [_content(path) for path in paths],
        "versions": _versions("sentencepiece"),
        "sources": hashing.sources_of("msm_jax.data.tokenizers"),
    }
    return _place(workdir, "tokenizers", "tokenizer", graph_lib.TOKENIZER, payload)


class Addresses:
    """Addresses of all phases and evals, once world and tokenizer exist, and the settings they run with."""

    def __init__(self, config: ExperimentConfig, graph: graph_lib.Graph, inputs: Inputs, workdir: Path) -> None:
        """Read and hash every data file, item file and checkpoint that the experiment names.

        Raises:
          InputError: one of them is missing, or a phase's settings are refused.
        """
        self.config = config
        self.graph = graph
        self.inputs = inputs
        self.workdir = workdir
        self.phase_configs: dict[str, PhaseConfig] = {}
        self.phases: dict[str, Address] = {}
        self.evals: dict[str, dict[str, Address]] = {}
        self._training = hashing.sources_of("msm_jax.training.loop")
        self._sampling = hashing.sources_of("msm_jax.sampling.checkpoint_model")
        self._tokenizer = hashing.digest(_tree(inputs.tokenizer_dir)) if inputs.tokenizer_dir else ""
        self._checkpoint = hashing.digest(_tree(config.checkpoint)) if config.checkpoint else ""
        for phase in graph.phases.values():
            self._add_phase(phase)
        for measurement in graph.measurements.values():
            self._add_evals(measurement)

    def checkpoint_of(self, chain: tuple[str, ...], seed: int | None) -> str:
        """The run directory or checkpoint that holds the model after `chain`."""
        if not chain:
            return self.config.checkpoint
        return str(self.phases[self._phase_id(chain, seed)].path)

    def _phase_id(self, chain: tuple[str, ...], seed: int | None) -> str:
        own = None if seed is None else graph_lib.seed_of(self.config, chain, seed)
        return self.graph.phases[chain, own].id

    def _parent_hash(self, chain: tuple[str, ...], seed: int | None) -> str:
        return self.phases[self._phase_id(chain, seed)].hash if chain else self._checkpoint

    def _add_phase(self, phase: graph_lib.Phase) -> None:
        start = self.checkpoint_of(phase.parent, phase.seed)
        config = phase_config(self.config, phase, self.inputs, start, self.workdir)
        payload = {
            "config": _without_paths(config),
            "data": {name: _content(source.path) for name, source in sorted(config.data.sources.items())},
            "chat_template": _file(config.chat_template) if config.chat_template else "",
            "parent": self._parent_hash(phase.parent, phase.seed),
            "tokenizer": "" if start else self._tokenizer,
            "devices": config.mesh.size,
            "threads": config.threads,
            "versions": _versions("jax", "jaxlib"),
            "sources": self._training,
        }
        self.phase_configs[phase.id] = config
        self.phases[phase.id] = _place(self.workdir, "phases", phase.name, phase.id, payload)

    def _add_evals(self, measurement: graph_lib.Measurement) -> None:
        checkpoint = self._parent_hash(measurement.chain, measurement.seed)
        directory = self.workdir / "evals" / f"{measurement.name}-{checkpoint[:12]}"
        found = {}
        for name in measurement.evals:
            fields = eval_fields(self.config, name)
            payload = {
                "config": fields,
                "items": _content(self.items_of(measurement, name)),
                "checkpoint": checkpoint,
                "scoring": settings.to_json(self.config.scoring),
                "versions": _versions("jax", "jaxlib"),
                "sources": {**kinds.source_hashes(fields["kind"]), **self._sampling},
            }
            path = directory / f"{name}-{hashing.digest(payload)[:12]}.json"
            found[name] = Address(f"{measurement.id}/{name}", payload, path)
        self.evals[measurement.id] = found

    def eval_config(self, measurement: graph_lib.Measurement, name: str) -> dict[str, Any]:
        """The settings of an eval with the path of its items."""
        return {**eval_fields(self.config, name), "path": self.items_of(measurement, name)}

    def items_of(self, measurement: graph_lib.Measurement, name: str) -> str:
        """The path of an eval's items."""
        return substitute(measurement.evals[name], self.inputs.world_dir)


def phase_config(
    config: ExperimentConfig, phase: graph_lib.Phase, inputs: Inputs, start: str, workdir: Path
) -> PhaseConfig:
    """The resolved settings of a training run that starts from the checkpoint `start`, or from scratch where
    "".

    `threads` 0 becomes 1, since a result is addressed by its thread count.

    Raises:
      InputError: the settings are refused.
    """
    name = phase.chain[-1]
    where = f"phases.{name}"
    fields = dict(substitute(settings.plain(config.phases[name]), inputs.world_dir))
    if not isinstance(fields.get("data"), Mapping):
        raise InputError(f"{where}.data: required field is missing; set it")
    fields["data"] = {"cache_dir": str(workdir / "cache"), **fields["data"]}
    fields["threads"] = fields.get("threads") or 1
    fields |= {
        "name": name,
        "seed": graph_lib.phase_seed(config, name, phase.seed),
        "init": {"mode": "params", "checkpoint": start} if start else {"mode": "scratch"},
        "tokenizer": "" if start else inputs.tokenizer_dir,
    }
    return settings.build(PhaseConfig, fields, where)


def eval_fields(config: ExperimentConfig, name: str) -> dict[str, Any]:
    """The settings of an eval without its path."""
    fields = settings.to_json(config.evals[name])
    return {key: value for key, value in fields.items() if key not in ("path", "after")}


def _without_paths(config: PhaseConfig) -> dict[str, Any]:
    """The settings as JSON, less the paths, whose contents the payload holds."""
    fields = settings.to_json(config)
    for source in fields["data"]["sources"].values():
        del source["path"]
    del fields["data"]["cache_dir"], fields["init"]["checkpoint"], fields["init"]["base"]
    del fields["tokenizer"], fields["chat_template"]
    return fields


def _content(path: str) -> str:
    """sha256 over the files that a data path (a file, a glob, a comma list) names."""
    return hashing.digest([hashing.file_sha256(file) for file in data_files.resolve(path)])


def _file(path: str) -> str:
    found = Path(path)
    if not found.is_file():
        raise InputError(f"{path}: no such file; check the path")
    return _file_sha256(found, found.stat().st_mtime_ns)


@functools.cache
def _file_sha256(path: Path, mtime_ns: int) -> str:
    return hashing.file_sha256(path)


@functools.cache
def _tree(directory: str) -> dict[str, str]:
    path = Path(directory)
    if not path.is_dir():
        raise InputError(f"{directory}: no such directory; give the path of an existing one")
    return hashing.tree_sha256(path, leave_out=(DONE, NODE))


def _versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def is_done(address: Address) -> bool:
    """Whether a result is complete: an eval's file, or `done.json` and, for a phase, its checkpoint."""
    if address.path.suffix == ".json":
        stored = read_json(address.path)
        return stored is not None and stored.get("hash") == address.hash
    done = read_json(address.path / DONE)
    if done is None or done["hash"] != address.hash:
        return False
    if address.id == graph_lib.WORLD or address.id == graph_lib.TOKENIZER:
        return done["files"] == hashing.tree_sha256(address.path, leave_out=(DONE, NODE))
    return (address.path / done["result"]["checkpoint"]).is_dir()


def why(address: Address, workdir: Path) -> str:
    """Why a node that is not done will run: how it differs from the most similar earlier result of its id."""
    if (address.path / NODE).exists():
        return "continues" if (address.path / "checkpoints").is_dir() else "was not finished"
    earlier = _earlier(address, workdir)
    if not earlier:
        return "new"
    differences = [hashing.changes(stored, address.payload) for stored in earlier]
    return "; ".join(_in_words(min(differences, key=len))) or "its result is gone"


def _earlier(address: Address, workdir: Path) -> list[Mapping[str, Any]]:
    """Payloads of stored results of the same id, newest first."""
    if address.path.suffix == ".json":
        checkpoint = address.path.parent.name.rpartition("-")[0]
        name = address.path.name.rpartition("-")[0]
        found: Iterable[Path] = (workdir / "evals").glob(f"{checkpoint}-*/{name}-*.json")
    else:
        found = address.path.parent.glob(f"*/{NODE}")
    newest_first = sorted(found, key=lambda path: -path.stat().st_mtime)
    stored = [read_json(path) for path in newest_first]
    return [entry["payload"] for entry in stored if entry is not None and entry.get("id") == address.id]


def _in_words(differences: list[tuple[str, Any, Any]]) -> list[str]:
    words = []
    for key, before, after in differences:
        head, _, rest = key.partition(".")
        if head in ("sources", "specs"):
            verb = "is new" if before is None else "is gone" if after is None else "changed"
            words.append(f"{head.removesuffix('s')} {rest} {verb}")
        elif head == "data":
            words.append(f"data changed: {rest}")
        elif head == "parent":
            words.append("the phase before it changed")
        elif head in ("tokenizer", "chat_template", "items", "texts", "checkpoint"):
            words.append(f"{head} changed")
        elif head == "versions":
            words.append(f"{rest} changed {before} -> {after}")
        else:
            words.append(f"{key} changed {_shown(before)} -> {_shown(after)}")
    return words


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
