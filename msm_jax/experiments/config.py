"""Settings of an experiment: a graph of phases × arms × seeds, its evals and its contrasts."""

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from msm_jax.analysis import asked, results
from msm_jax.analysis.asked import ContrastSpec, CurveSpec, Expectation, Reference, SweepExpectation
from msm_jax.errors import InputError
from msm_jax.evals.code_book import FILE, CodingConfig
from msm_jax.foundation import settings
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.planning import chips

WORLD = "{world}"
GIVEN_BY_GRAPH = ("name", "seed", "init", "tokenizer", "keep_steps")
_BRANCH = re.compile(r"(?P<phase>.+)@(?P<step>\d+)")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer of phases from scratch: an existing directory, or one that is trained on documents and chats.

    Attributes:
      path: the directory of an existing tokenizer.
      vocab_size: the number of ids of a tokenizer to train, specials and bytes among them.
      train_on: the files to train it on, with paths as in `data.config.SourceConfig`.
    """

    path: str = ""
    vocab_size: int = 0
    train_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses both forms at once, and only one of `vocab_size` and `train_on`."""
        if self.path and (self.vocab_size or self.train_on):
            raise InputError("path and train_on exclude each other; keep one of them")
        if bool(self.vocab_size) != bool(self.train_on):
            raise InputError("vocab_size and train_on go together; set both or neither")


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """How evals run: CPU `threads` of their process, prompts per `batch`, and the mesh that splits the model."""

    threads: int = 1
    batch: int = 64
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        """Refuses counts below 1."""
        for name in ("threads", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class CodeBookSpec(CodingConfig):
    """A code book that is made of the transcripts of all arms on one eval, of every seed.

    Attributes:
      eval: the eval, measured at the end of the arms.
    """

    eval: str = ""


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """An experiment. "{world}" in a path stands for the directory of the generated world, "{NAME}" for a corpus.

    Attributes:
      name: a working directory belongs to the experiment of this name.
      question: the question that the experiment asks, for the report.
      seeds: one replicate each; a seed decides order and sampling of the data in every phase that is not `shared`.
      workers: how many CPU cores are kept busy with phases and evals; 0 takes the cores of this process.
      world: {"kind": "miniworld", ...fields of miniworld.config.WorldConfig} or {"kind": "none"} for own data.
      corpora: {NAME: {"kind": ..., fields of that kind}}, further generated directories; a kind is the dotted name of
        a module, see `experiments.nodes`.
      tokenizer: what phases from scratch use.
      phases: {name: fields of training.config.PhaseConfig, without name, seed, init and tokenizer}.
      shared: phases that run once for all seeds.
      checkpoint: a checkpoint that every chain starts from; empty where the first phase starts from scratch.
      model: the preset whose shape that checkpoint must have, so that a plan can be made before the checkpoint exists;
        empty for any shape.
      provide: (path, what it is and how to get it) for each file that the user provides; shown if it is missing.
      arms: {arm: chain of phases}; equal prefixes of chains run once. PHASE@STEP in a chain continues from the
        checkpoint of that step of the phase, whose schedule stays what it is.
      evals: {name: fields for evals.kinds.build}, measured at the end of every arm; with `after`, a mapping
        {phase: path} in place of `path`, right after that phase, reported under every arm that contains it.
      code_books: {NAME: how a code book is made}; evals of the kind "reasoning" whose path is "{NAME}/book.jsonl" read
        it.
      scoring: how evals run.
      midtraining: the phases that are midtraining. Arms that share them share a colour in plots, and the report warns
        of a midtraining of few steps.
      gates: evals that say whether the arms may be read at all; `expectations` holds their minima.
      doses: {dose: {arm: other arm}}, where the arm is the other arm with another dose of midtraining. Tokens are
        compared among the arms of one dose.
      generated: {eval: other eval}, where the eval asks the other one's items for generated answers.
      contrasts: what is compared on which eval: terms {"msm+aft": 1.0, "aft": -1.0} are the first minus the second.
      expectations: what the report checks: of a contrast or an eval by its name, or of a level under any other name.
      curves: dose curves, shown in the report.
      reference: levels that others have measured, which the report shows beside its own with the deviations.
      accelerator: the chip that the phases are meant for, a name in `planning.chips`; `--dry_run` bounds times on it.
      sweep_expectations: what `msm_jax.sweep` checks of contrasts where the seed of the world is all that it varies.
    """

    name: str
    seeds: tuple[int, ...]
    phases: Mapping[str, Mapping[str, Any]]
    arms: Mapping[str, tuple[str, ...]]
    evals: Mapping[str, Mapping[str, Any]]
    question: str = ""
    workers: int = 0
    world: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "none"})
    corpora: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    shared: tuple[str, ...] = ()
    checkpoint: str = ""
    model: str = ""
    provide: tuple[tuple[str, str], ...] = ()
    code_books: Mapping[str, CodeBookSpec] = dataclasses.field(default_factory=dict)
    scoring: ScoringConfig = dataclasses.field(default_factory=ScoringConfig)
    midtraining: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    doses: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    generated: Mapping[str, str] = dataclasses.field(default_factory=dict)
    contrasts: Mapping[str, ContrastSpec] = dataclasses.field(default_factory=dict)
    expectations: Mapping[str, Expectation] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, CurveSpec] = dataclasses.field(default_factory=dict)
    reference: tuple[Reference, ...] = ()
    accelerator: str = ""
    sweep_expectations: Mapping[str, SweepExpectation] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses names that refer to nothing and chains that cannot run."""
        _check_scalars(self)
        _check_arms(self)
        _check_evals(self)
        _check_code_books(self)
        _check_contrasts(self)
        if self.world["kind"] == "none":
            for where, path in _strings(settings.to_json(self)):
                if WORLD in path:
                    raise InputError(f'{where}: "{WORLD}" needs a world; set world.kind or give a path')

    @property
    def all_corpora(self) -> dict[str, Mapping[str, Any]]:
        """The world, if there is one, and then the corpora."""
        world = {} if self.world["kind"] == "none" else {"world": self.world}
        return {**world, **self.corpora}


def _check_scalars(config: ExperimentConfig) -> None:
    if not config.name or "/" in config.name:
        raise InputError(f'name: "{config.name}" must be a non-empty name without "/"')
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise InputError(f"seeds: {config.seeds} must be at least one seed, each once")
    if min(config.seeds) < 0 or config.workers < 0:
        raise InputError("seeds and workers: must not be negative")
    for name, fields in config.corpora.items():
        if not name.isidentifier() or name in ("world", "tokenizer"):
            raise InputError(f'corpora: "{name}" must be a word of letters, digits and "_", not world or tokenizer')
        if not isinstance(fields.get("kind"), str):
            raise InputError(f"corpora.{name}.kind: required field is missing; set it")
    if config.accelerator and config.accelerator not in chips.NAMED:
        raise InputError(f"accelerator: {config.accelerator!r} is unknown; choose from {', '.join(chips.NAMED)}")
    kind = config.world.get("kind")
    if kind not in ("miniworld", "none"):
        raise InputError(f'world.kind: {kind!r} is not allowed; choose "miniworld" or "none"')


def _check_arms(config: ExperimentConfig) -> None:
    if not config.arms:
        raise InputError("arms: is empty; name at least one arm with its chain of phases")
    for phase in config.phases:
        if "/" in phase or not phase:
            raise InputError(f'phases: "{phase}" must be a non-empty name without "/"')
        if _BRANCH.fullmatch(phase):
            raise InputError(f'phases: "{phase}" ends in "@" and digits, as a step of a phase does; rename it')
    for phase, fields in config.phases.items():
        for key in GIVEN_BY_GRAPH:
            if key in fields:
                raise InputError(f"phases.{phase}.{key}: is set by the experiment's graph; remove it")
    for phase in config.shared:
        _known("shared", phase, config.phases)
    for arm, chain in config.arms.items():
        if "/" in arm or not arm:
            raise InputError(f'arms: "{arm}" must be a non-empty name without "/"')
        if not chain and not config.checkpoint:
            raise InputError(f"arms.{arm}: is empty and there is no checkpoint; name a phase")
        names = [phase_of(element) for element in chain]
        for index, phase in enumerate(names):
            _known(f"arms.{arm}", phase, config.phases)
            step, steps = step_of(chain[index]), config.phases[phase].get("steps")
            if step is not None and not (step and isinstance(steps, int) and step <= steps):
                raise InputError(f"arms.{arm}: {phase} has no step {step}; its steps are 1 to {steps}")
            if phase in names[:index]:
                raise InputError(f"arms.{arm}: phase {phase} occurs twice; give the second one its own name")
            if phase in config.shared and any(earlier not in config.shared for earlier in names[:index]):
                raise InputError(f"arms.{arm}: shared phase {phase} follows one that is not; shared phases come first")
    first = any(config.arms.values())
    has_tokenizer = config.tokenizer.path or config.tokenizer.train_on
    if first and not config.checkpoint and not has_tokenizer:
        raise InputError("tokenizer: is not set; a phase from scratch needs path, or vocab_size and train_on")
    if config.model and not config.checkpoint:
        raise InputError("model: is set, but no checkpoint; a phase from scratch names its own preset")
    if config.checkpoint and has_tokenizer:
        raise InputError("tokenizer: is set, but the checkpoint brings its own; remove one of them")


def _check_evals(config: ExperimentConfig) -> None:
    for name, fields in config.evals.items():
        if "/" in name or not name:
            raise InputError(f'evals: "{name}" must be a non-empty name without "/"')
        after = fields.get("after") or {}
        if not isinstance(after, Mapping):
            raise InputError(f"evals.{name}.after: must map phases to paths, got {after!r}")
        if after and fields.get("path"):
            raise InputError(f"evals.{name}: path and after exclude each other; keep one")
        for phase, path in after.items():
            _known(f"evals.{name}.after", phase, config.phases)
            if not isinstance(path, str) or not path:
                raise InputError(f"evals.{name}.after.{phase}: must be a path, got {path!r}")


def _check_code_books(config: ExperimentConfig) -> None:
    read = [book_of(config, name) for name in config.evals]
    for name, book in config.code_books.items():
        if not name.isidentifier() or name in (*config.corpora, "world", "tokenizer"):
            raise InputError(f'code_books: "{name}" must be a word of letters, digits and "_", and no name of a corpus')
        _known(f"code_books.{name}.eval", book.eval, config.evals)
        if config.evals[book.eval].get("after") or book_of(config, book.eval):
            raise InputError(f"code_books.{name}.eval: {book.eval} is not measured at the end of arms; name another")
        if name not in read:
            raise InputError(f'code_books.{name}: no eval reads it; set evals.EVAL.path to "{path_of_book(name)}"')


def path_of_book(name: str) -> str:
    """Returns the path by which an eval reads a code book of the experiment."""
    return f"{{{name}}}/{FILE}"


def book_of(config: ExperimentConfig, eval_name: str) -> str:
    """Returns the code book of the experiment that an eval reads, "" for none."""
    path = config.evals[eval_name].get("path")
    return next((name for name in config.code_books if path == path_of_book(name)), "")


def _check_contrasts(config: ExperimentConfig) -> None:
    for phase in config.midtraining:
        _known("midtraining", phase, config.phases)
    for gate in config.gates:
        _known("gates", gate, config.evals)
    results.check_doses(config.doses, "doses", config.arms)
    results.check_forms(config.generated, "generated", "eval", config.evals)
    measured = {
        arm: [
            name
            for name, fields in config.evals.items()
            if not fields.get("after") or set(fields["after"]) & {phase_of(element) for element in chain}
        ]
        for arm, chain in config.arms.items()
    }
    asked.check_contrasts(config.contrasts, "", config.evals, measured)
    asked.check_expectations(config.expectations, "", config.contrasts, config.evals, measured)
    asked.check_curves(config.curves, "", config.evals, measured)
    asked.check_references(config.reference, "", config.evals, config.arms)
    asked.check_sweep_expectations(config.sweep_expectations, "", config.contrasts)


def _known(where: str, name: str, valid: Collection[str]) -> None:
    if name not in valid:
        raise InputError(f"{where}: {name!r} is unknown; {settings.nearest(name, valid)}")


def _strings(value: Any, where: str = "config") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(where, value)]
    if isinstance(value, Mapping):
        return [found for key, item in value.items() for found in _strings(item, f"{where}.{key}")]
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in _strings(item, where)]
    return []


def phase_of(element: str) -> str:
    """Returns the phase of an element of a chain."""
    found = _BRANCH.fullmatch(element)
    return found["phase"] if found else element


def step_of(element: str) -> int | None:
    """Returns the step at which an element of a chain leaves its phase, None for the phase's end."""
    found = _BRANCH.fullmatch(element)
    return int(found["step"]) if found else None


def mentioned(config: ExperimentConfig, value: Any) -> tuple[str, ...]:
    """Returns the corpora whose names stand in braces in a string of `value` at any depth."""
    texts = [text for _, text in _strings(settings.plain(value))]
    return tuple(name for name in config.all_corpora if any(f"{{{name}}}" in text for text in texts))


def substitute(value: Any, directories: Mapping[str, str]) -> Any:
    """Returns `value` with "{NAME}" replaced by the directory of that name in every string at any depth."""
    if isinstance(value, str):
        for name, directory in directories.items():
            value = value.replace(f"{{{name}}}", directory)
        return value
    if isinstance(value, Mapping):
        return {key: substitute(item, directories) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(substitute(item, directories) for item in value)
    return value


def slots(config: ExperimentConfig) -> int:
    """Returns how many nodes of one core each run side by side on CPU."""
    if config.workers:
        return config.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
