"""What the phases of an experiment read: how many epochs of each source, by the loader's own count."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from msm_jax.errors import InputError
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.context import Context
from msm_jax.experiments.finished import Finished
from msm_jax.training.config import PhaseConfig


def lines(context: Context) -> Iterator[str]:
    """Yields a line on what each phase reads in its first seed, and on each source that it does not read as is meant.

    Data that is not in the token cache of the store is tokenised in a temporary directory, which takes as long as it
    does before the first phase. A phase whose data or start does not exist yet has a line on what is meant, if its
    config says that; one line counts the others.

    Raises:
      InputError: a file cannot be used; the message names file, line and field.
    """
    later = 0
    for node in context.graph.nodes:
        if node.kind != "data":
            continue
        phase: graph_lib.Phase = node.spec
        chain = [context.phase_configs[run] for run in context.graph.runs_of(phase)]
        name = node.id.removeprefix("data/")
        if not _exists(chain, context):
            meant = ", ".join(f"{source} {count:g}" for source, count in chain[-1].data.epochs.items())
            if meant:
                yield f"epochs: {name}: {meant} meant; counted when its data and its start exist"
            later += not meant
            continue
        seed = "" if phase.seed is None or len(context.config.seeds) == 1 else f", seed {phase.seed}"
        for line in _read(chain):
            yield f"epochs: {name}{seed}: {line}"
    if later:
        yield f"epochs: of {later} phases, counted when their data and what they start from exist"


def notes(graph: graph_lib.Graph, finished: Finished) -> Iterator[str]:
    """Yields a warning for each phase whose runs left lines out, or read a source otherwise than its config means."""
    from msm_jax.data import epochs

    told: dict[str, None] = {}
    for phase in graph.phases.values():
        name = phase.chain[-1]
        found = finished.manifest(phase.id)
        meant = graph.config.phases[name]["data"].get("epochs", {})
        for source, count in found.get("epochs", {}).items():
            if source in meant and abs(count - meant[source]) > epochs.TOLERANCE * meant[source]:
                told[f"Phase {name} reads {source} {count:.2f} times; {meant[source]:g} is meant."] = None
        for source, counts in found.get("left_out", {}).items():
            told[f"Phase {name} left out of {source}: {epochs.in_words(counts)}."] = None
    yield from told


def _read(chain: Sequence[PhaseConfig]) -> Iterator[str]:
    """Yields what the last phase of a chain reads."""
    from msm_jax.data import cache, epochs
    from msm_jax.data.loader import Loader
    from msm_jax.training import origin, start

    found, last = start.chain(chain, origin.read(chain[0])), chain[-1]
    assert found.tokenizer is not None and found.chat is not None, "the start exists"
    given = (found.tokenizer, found.chat.template)
    with tempfile.TemporaryDirectory(prefix="epochs") as scratch:
        data, sources = last.data, last.data.sources.values()
        if not all(cache.is_open(source, *given, data.cache_dir, data.chat) for source in sources):
            data = dataclasses.replace(data, cache_dir=scratch)
        loader = Loader(data, *given, last.batch_rows, last.seed, scratch)
        yield f"{last.steps:,} steps read {epochs.summary(loader, last.steps)}"
        yield from epochs.left_out(loader)
        for line in epochs.departures(loader, data, last.steps):
            yield f"WARNING: {line}"


def _exists(chain: Sequence[PhaseConfig], context: Context) -> bool:
    """Returns whether the data of the last phase is there, and what the first one starts from."""
    from msm_jax.checkpoints import store

    first, paths = chain[0], [source.path for source in chain[-1].data.sources.values()]
    templates = [config.chat_template for config in chain if config.chat_template]
    if any(context.awaits(path) for path in paths) or not all(Path(path).is_file() for path in templates):
        return False
    try:
        for path in paths:
            context.resolve(path)
        if first.init.checkpoint:
            store.resolve(Path(first.init.checkpoint))
    except InputError:  # `dry_run` itself lists what is missing
        return False
    return bool(first.init.checkpoint) or Path(first.tokenizer).is_dir()
