"""The nodes of an experiment: the corpora, phases and evals that its arms and seeds need.

Equal prefixes of chains are one node for each seed, and one node for all seeds if every phase in them is shared. An
element of a chain is a phase, or PHASE@STEP for the checkpoint of that step of the phase's run.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping

from msm_jax.evals import kinds
from msm_jax.experiments.config import ExperimentConfig, book_of, mentioned, phase_of, step_of
from msm_jax.experiments.nodes.interface import Node

WORLD = "world"
TOKENIZER = "tokenizer"
REPORT = "report"
CODE_BOOK = "code_book"

Chain = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training run: the last phase of `chain`, after the others.

    Attributes:
        chain: its last element names no step, whatever arms branch from the run.
        seed: None for a run that all seeds share.
        name: the start of its directory's name.
        keep_steps: the steps from which arms branch.
    """

    chain: Chain
    seed: int | None
    name: str
    keep_steps: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Names the node between runs, whatever its settings."""
        return "/".join(["phase", *self.chain, *_seed(self.seed)])

    @property
    def parent(self) -> Chain:
        """The chain before this phase."""
        return self.chain[:-1]

    def branch(self, step: int) -> Chain:
        """Returns the chain that ends at one step of this run."""
        return (*self.parent, f"{self.chain[-1]}@{step}")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The evals, {name: path of its items}, of the checkpoint after `chain`; of `config.checkpoint` if it is empty.

    `book` is the code book of the experiment that they read, "" for evals that read none.
    """

    chain: Chain
    seed: int | None
    name: str
    evals: Mapping[str, str]
    book: str = ""

    @property
    def id(self) -> str:
        """Names the node between runs."""
        return "/".join(["eval", *(self.chain or ["(checkpoint)"]), *self._book, *_seed(self.seed)])

    @property
    def label(self) -> str:
        """Names the node in the report, for all seeds."""
        return "/".join([*self.chain, *self._book])

    @property
    def _book(self) -> list[str]:
        return [f"{{{self.book}}}"] if self.book else []


@dataclasses.dataclass(frozen=True)
class CodeBook:
    """A code book; `sources` holds for each arm the measurements, one for each run, whose transcripts it is made of."""

    name: str
    sources: tuple[tuple[Measurement, ...], ...]

    @property
    def id(self) -> str:
        """Names the node between runs."""
        return f"{CODE_BOOK}/{self.name}"


@dataclasses.dataclass(frozen=True)
class Graph:
    """The nodes of an experiment, and the runs and measurements that its arms and seeds need.

    Attributes:
        config: the experiment.
        arms: the chain of each arm; a step that is the last one of its phase is left out.
        phases: {(chain, seed): run}. The last element of the chain names no step; the seed is None for a shared run.
        measurements: {(chain, seed, code book): evals of its checkpoint}. The seed is None for a checkpoint that all
          seeds share, and the code book is "" for evals that read none.
    """

    config: ExperimentConfig = dataclasses.field(compare=False)
    arms: Mapping[str, Chain] = dataclasses.field()
    phases: Mapping[tuple[Chain, int | None], Phase]
    measurements: Mapping[tuple[Chain, int | None, str], Measurement]

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer is trained."""
        return bool(self.config.tokenizer.train_on) and bool(self.phases)

    def run_of(self, chain: Chain, seed: int | None) -> Phase:
        """Returns the run that ends a chain, at whichever step the chain leaves it."""
        own = None if seed is None else seed_of(self.config, chain, seed)
        return self.phases[(*chain[:-1], phase_of(chain[-1])), own]

    def runs_of(self, phase: Phase) -> list[str]:
        """Returns the ids of the runs from the start of a phase's chain to the phase."""
        chain = phase.chain
        return [self.run_of(chain[:end], phase.seed).id for end in range(1, len(chain) + 1)]

    def measurement(self, chain: Chain, seed: int | None, eval_name: str) -> Measurement:
        """Returns the measurement of an eval after a chain, in a seed of the experiment or one of its runs."""
        own = None if seed is None else seed_of(self.config, chain, seed)
        return self.measurements[chain, own, book_of(self.config, eval_name)]

    @functools.cached_property
    def code_books(self) -> tuple[CodeBook, ...]:
        """The code books. Arms that end alike are one source."""
        found, by_id = [], {each.id: each for each in self.measurements.values()}
        for name, book in self.config.code_books.items():
            arms = [
                tuple(dict.fromkeys(self.measurement(chain, seed, book.eval).id for seed in self.config.seeds))
                for chain in self.arms.values()
            ]
            sources = tuple(tuple(by_id[each] for each in runs) for runs in dict.fromkeys(arms))
            found.append(CodeBook(name, sources))
        return tuple(found)

    @functools.cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, parents first."""
        return (*self._inputs(), *self._data(), *self._phases(), *self._evals())

    def _inputs(self) -> Iterator[Node]:
        for name, fields in self.config.all_corpora.items():
            spec = {key: value for key, value in fields.items() if key != "kind"}
            yield Node(name, fields["kind"], spec, mentioned(self.config, spec), is_content=True)
        if self.has_tokenizer:
            parents = mentioned(self.config, self.config.tokenizer.train_on)
            yield Node(TOKENIZER, TOKENIZER, self.config.tokenizer, parents, is_content=True)

    def _data(self) -> Iterator[Node]:
        """Yields a check of data for each phase and start of its chain: the files are the same in every seed."""
        checked: dict[str, list[Phase]] = {}
        for phase in self.phases.values():
            root, name = phase_of(phase.chain[0]), phase.chain[-1]
            node_id = f"data/{name}" if name == root or self.config.checkpoint else f"data/{root}/{name}"
            checked.setdefault(node_id, []).append(phase)
        for node_id, phases in checked.items():
            yield Node(node_id, "data", phases[0], before=tuple(phase.id for phase in phases))

    def _phases(self) -> Iterator[Node]:
        for phase in self.phases.values():
            corpora = mentioned(self.config, self.config.phases[phase.chain[-1]])
            if phase.parent:
                # What the tokenizer or the phase before was made from needs no edge of its own.
                parents = (self.run_of(phase.parent, phase.seed).id, *(name for name in corpora if name != WORLD))
            else:
                parents = (TOKENIZER,) if self.has_tokenizer else corpora
            yield Node(phase.id, "phase", phase, parents)

    def _evals(self) -> Iterator[Node]:
        """Yields the evals that read no code book, then the code books, and then the evals that read one."""
        parents = {
            each.id: (self.run_of(each.chain, each.seed).id,) if each.chain else ()
            for each in self.measurements.values()
        }
        for each in self.measurements.values():
            if not each.book:
                yield Node(each.id, "eval", each, parents[each.id])
        for book in self.code_books:
            yield Node(book.id, CODE_BOOK, book, tuple(each.id for runs in book.sources for each in runs))
        for each in self.measurements.values():
            if each.book:
                yield Node(each.id, "eval", each, (*parents[each.id], f"{CODE_BOOK}/{each.book}"))


def build(config: ExperimentConfig) -> Graph:
    """Builds the graph of an experiment."""
    arms = {arm: tuple(_normal(config, element) for element in chain) for arm, chain in config.arms.items()}
    steps: dict[tuple[Chain, int | None], set[int]] = {}
    evals: dict[tuple[Chain, int | None, str], dict[str, str]] = {}
    for seed in config.seeds:
        for chain in arms.values():
            for end, element in enumerate(chain, 1):
                prefix = (*chain[: end - 1], phase_of(element))
                kept = steps.setdefault((prefix, seed_of(config, prefix, seed)), set())
                kept |= {step} if (step := step_of(element)) else set()
            for eval_name, fields in config.evals.items():
                for prefix, path in measured_after(chain, fields):
                    key = (prefix, seed_of(config, prefix, seed), book_of(config, eval_name))
                    evals.setdefault(key, {})[eval_name] = path
    phases = {
        (chain, seed): Phase(chain, seed, _name(config, chain, seed), tuple(sorted(kept)))
        for (chain, seed), kept in steps.items()
    }
    measurements = {
        (chain, seed, book): Measurement(chain, seed, _name(config, chain, seed), paths, book)
        for (chain, seed, book), paths in evals.items()
    }
    return Graph(config, arms, phases, measurements)


def _normal(config: ExperimentConfig, element: str) -> str:
    """Returns an element of a chain without its step if that is the last one of the phase."""
    phase = phase_of(element)
    return phase if step_of(element) == config.phases[phase].get("steps") else element


def measured_after(chain: Chain, fields: Mapping[str, object]) -> list[tuple[Chain, str]]:
    """Returns the prefixes of `chain` after which an eval is measured, each with the path of its items.

    Without `after` that is the whole chain.
    """
    after = fields.get("after")
    if not isinstance(after, Mapping) or not after:
        return [(chain, kinds.path_of(fields))]
    phases = [phase_of(element) for element in chain]
    return [(chain[: end + 1], after[phase]) for end, phase in enumerate(phases) if phase in after]


def seed_of(config: ExperimentConfig, chain: Chain, seed: int) -> int | None:
    """Returns the experiment's seed that the run of `chain` has: None if every phase in it is shared."""
    return None if is_shared(config, chain) else seed


def is_shared(config: ExperimentConfig, chain: Chain) -> bool:
    """Returns whether one run of `chain` serves all seeds."""
    return all(phase_of(element) in config.shared for element in chain)


def phase_seed(config: ExperimentConfig, phase: str, seed: int | None) -> int:
    """Returns the seed of one training run, 31 bits.

    It depends on the phase's *name* and the experiment's seed and on nothing before the phase, so that a
    phase of one name reads the same data in the same order in every arm of a seed. Shared phases take the
    world's seed in place of the experiment's, so that another world is another pretraining.
    """
    source = f"world {config.world.get('seed', 0)}" if seed is None else f"seed {seed}"
    return int.from_bytes(hashlib.sha256(f"{source}, phase {phase}".encode()).digest()[:4], "big") >> 1


def without_seed(node_id: str) -> str:
    """Returns the id of a node without the seed in which it may end."""
    return re.sub(r"/seed\d+$", "", node_id)


def _name(config: ExperimentConfig, chain: Chain, seed: int | None) -> str:
    """Returns the start of a node's directory name: the phases that are not shared, or the last one, and the seed."""
    own = [each for each in chain if phase_of(each) not in config.shared] or list(chain[-1:]) or ["checkpoint"]
    return ".".join([*own, *_seed(seed)])


def _seed(seed: int | None) -> list[str]:
    return [] if seed is None else [f"seed{seed}"]
