"""The knowledge about an experiment that grows while its nodes are addressed and planned."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_jax.data import files as data_files
from msm_jax.errors import InputError
from msm_jax.experiments.config import ExperimentConfig, step_of, substitute
from msm_jax.experiments.estimate import Rates
from msm_jax.experiments.graph import TOKENIZER, Chain, Graph
from msm_jax.experiments.nodes.interface import DONE, NODE, Address
from msm_jax.foundation import hashing, mirror, storage
from msm_jax.training.config import PhaseConfig

if TYPE_CHECKING:
    from msm_jax.training.start import Parent, Start


class Context:
    """What is known of an experiment. What is read or hashed once is remembered.

    Attributes:
        config: the experiment.
        graph: its nodes.
        store: the directory of all results.
        rates: the speeds of earlier runs.
        directories: where the results of corpora and the tokenizer are, by node, without those that do not exist; and
            where code books will be, by name.
        addresses: by node and name of the result.
        phase_configs: the resolved settings of each run, by node.
        parents: what the checkpoint at the end of each chain will say of itself, and for the empty chain what all
            chains start from; see `training.start`.
        starts: how each run starts, by node.
        files: the files of each data path that was resolved.
        reads: {data path: SHA-256} of what each node reads, by node; see `read_by`.
        checked: (eval, path) of the item files that were read.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        graph: Graph,
        store: Path,
        rates: Rates,
        files: dict[str, list[str]] | None = None,
    ) -> None:
        """Knows nothing but the settings and, in `files`, the files of data paths that were resolved before."""
        self.config = config
        self.graph = graph
        self.store = store
        self.rates = rates
        self.directories: dict[str, str] = {}
        self.addresses: dict[str, Mapping[str, Address]] = {}
        self.phase_configs: dict[str, PhaseConfig] = {}
        self.parents: dict[Chain, Parent] = {}
        self.starts: dict[str, Start] = {}
        self.files = {} if files is None else files
        self.reads: dict[str, dict[str, str]] = {}
        self._reading: dict[str, str] = {}
        self.checked: set[tuple[str, str]] = set()
        self._memo: dict[tuple[str, str], Any] = {}

    @property
    def tokenizer_dir(self) -> str:
        """The tokenizer of phases from scratch; a placeholder while it is not trained, "" where there is none."""
        trained = self.directories.get(TOKENIZER, TOKENIZER if self.graph.has_tokenizer else "")
        return self.config.tokenizer.path or trained

    def substitute(self, value: Any) -> Any:
        """Returns `value` with the names of corpora in braces replaced by the directories that exist."""
        return substitute(value, self.directories)

    def awaits(self, path: str) -> bool:
        """Returns whether a path lies in a corpus or a code book that does not exist yet."""
        return any(f"{{{name}}}" in path for name in (*self.config.all_corpora, *self.config.code_books))

    def resolve(self, path: str) -> list[str]:
        """Returns the files of a data path.

        Raises:
            InputError: one is missing.
        """
        if path not in self.files:
            self.files[path] = data_files.resolve(path)
        return self.files[path]

    def content(self, path: str) -> str:
        """Returns the SHA-256 over the files of a data path.

        Raises:
            InputError: one is missing.
        """
        found = self.once("content", path, lambda path: hashing.files_sha256(self.resolve(path)))
        self._reading[path] = found
        return found

    def read_by(self, node: str) -> None:
        """Notes as read by this node the data paths whose content is asked for from now on."""
        self._reading = self.reads[node] = {}

    def sources(self, module: str) -> dict[str, str]:
        """Returns the hashes of the source files that importing a module runs."""
        return self.once("sources", module, hashing.sources_of)

    def tree(self, directory: str) -> dict[str, str]:
        """Returns the hashes of all files below a directory.

        Raises:
            InputError: it does not exist.
        """
        if not Path(directory).is_dir():
            raise InputError(f"{directory}: no such directory; give the path of an existing one")
        return self.once(
            "tree", directory, lambda path: hashing.tree_sha256(Path(path), leave_out=(DONE, NODE))
        )

    def checkpoint_of(self, chain: Chain, seed: int | None) -> str:
        """Returns the run directory or checkpoint that holds the model after `chain`, "" for a model from scratch."""
        if not chain:
            return self.config.checkpoint
        path = self.addresses[self.graph.run_of(chain, seed).id][""].path
        step = step_of(chain[-1])
        return str(path / "checkpoints" / str(step) if step else path)

    def checkpoint_hash(self, chain: Chain, seed: int | None) -> str:
        """Returns what identifies the model after `chain`: the hash of its run, and the step that it is left at."""
        if not chain and self.config.checkpoint:
            from msm_jax.checkpoints import store

            # Of a run, what else is in it does not matter, such as the notes on which runs start from it.
            return hashing.digest(self.tree(str(store.resolve(self.config.checkpoint))))
        if not chain:
            return ""
        run, step = self.addresses[self.graph.run_of(chain, seed).id][""].hash, step_of(chain[-1])
        return f"{run}@{step}" if step else run

    def once(self, what: str, key: str, find: Callable[[str], Any]) -> Any:
        """Returns `find(key)`, which is called once for each kind `what` of thing and key."""
        if (what, key) not in self._memo:
            self._memo[what, key] = find(key)
        return self._memo[what, key]


def unread(config: ExperimentConfig, graph: Graph) -> Context:
    """Returns what is known from the settings alone."""
    return Context(config, graph, Path("store"), Rates({}, {}))


def stored_path(path: Path, workdir: Path) -> str:
    """Returns a path for a file in `workdir`: relative if it lies in it, so that the directory can move; or a URL."""
    return str(path.relative_to(workdir)) if path.is_relative_to(workdir) else mirror.url_of(path) or str(path)


def found_path(stored: str, workdir: Path) -> Path:
    """Returns the path on this machine of what a file in `workdir` names by a stored path."""
    return mirror.place(stored, "written") if storage.is_url(stored) else workdir / stored

