"""What the worker processes run: one function per kind of node.

Each leaves its result complete or not at all: `done.json` is written last, an eval's file is renamed into
place.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.experiments.address import DONE, NODE, TIMES
from msm_jax.experiments.files import read_json, write_json
from msm_jax.experiments.worker import Report
from msm_jax.foundation import hashing, settings


def start(devices: int, threads: int) -> None:
    """Set logging, compile cache and backend of a new worker up; see `cli`."""
    from msm_jax import cli

    cli.set_up()
    cli.prepare_backend(devices=devices, threads=threads)


def world(args: Mapping[str, Any], report: Report) -> None:
    """Generate the world of `args["config"]` into `args["dir"]`."""
    from msm_jax.miniworld import generate
    from msm_jax.miniworld.config import WorldConfig

    config = settings.build(WorldConfig, args["config"], "world")
    _built(args, lambda directory: generate.write(config, directory))


def tokenizer(args: Mapping[str, Any], report: Report) -> None:
    """Train a tokenizer on the texts of `args["train_on"]` into `args["dir"]`."""
    from msm_jax.data import tokenizers

    texts = [text for path in args["train_on"] for text in _texts(path)]
    _built(args, lambda directory: tokenizers.train_sentencepiece(texts, directory, args["vocab_size"]))


def _texts(path: str) -> Iterator[str]:
    """The texts of documents, and what is said in chats; each file holds one or the other."""
    from msm_jax.data import files, sources

    for file in files.resolve(path):
        try:
            next(sources.iter_documents(file), None)
        except InputError as error:
            if 'kind="chats"' not in str(error):
                raise
            for chat in sources.iter_chats(file):
                yield from (message["content"] for message in chat.messages)
        else:
            yield from (document.text for document in sources.iter_documents(file))


def _built(args: Mapping[str, Any], build: Callable[[Path], object]) -> None:
    """Fill a directory under a temporary name, describe it, and rename it into place."""
    directory = Path(args["dir"])
    partial = directory.with_name(f".{directory.name}.partial")
    start = time.monotonic()
    for stale in (partial, directory):
        if stale.exists():
            shutil.rmtree(stale)
    partial.mkdir(parents=True)
    build(partial)
    files = hashing.tree_sha256(partial)
    write_json(partial / NODE, args["description"])
    seconds = time.monotonic() - start
    write_json(partial / DONE, {"hash": args["description"]["hash"], "files": files, "seconds": seconds})
    partial.rename(directory)


def data(args: Mapping[str, Any], report: Report) -> None:
    """Read, check, tokenise and cache the data of a phase, with the tokenizer that it will find in its
    checkpoint.

    Raises:
      InputError: a file cannot be used: bad JSON, a chat longer than a row, and so on.
    """
    from msm_jax.data.loader import Loader
    from msm_jax.training import chat, origin
    from msm_jax.training.config import PhaseConfig

    config = settings.build(PhaseConfig, args["config"], "phase")
    if args["checkpoint"]:
        start = origin.read_checkpoint(args["checkpoint"])
    else:
        config = dataclasses.replace(config, chat_template=args["chat_template"])
        start = origin.read_tokenizer(args["tokenizer"], config.chat_template)
    found = chat.decide(config, start.chat, start.name, chat.read(config.chat_template), resumes=False)
    assert start.tokenizer is not None and found is not None
    Loader(config.data, start.tokenizer, found.template, config.batch_rows, config.seed, config.data.cache_dir)


def phase(args: Mapping[str, Any], report: Report) -> None:
    """Train the phase of `args["config"]` in `args["dir"]`, from its newest checkpoint there if any."""
    from msm_jax.training import loop
    from msm_jax.training.config import PhaseConfig

    directory = Path(args["dir"])
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / NODE, args["description"])
    start = time.monotonic()
    config = settings.build(PhaseConfig, args["config"], "phase")
    result = dataclasses.asdict(loop.train(config, directory, report=report))
    result["checkpoint"] = str(Path(result["checkpoint"]).relative_to(directory))
    seconds = time.monotonic() - start
    write_json(directory / DONE, {"hash": args["description"]["hash"], "result": result, "seconds": seconds})


def evals(args: Mapping[str, Any], report: Report) -> None:
    """Measure a checkpoint by each eval in `args["evals"]`; each result is its own file.

    `times.json` beside them keeps the seconds of each eval, for estimates.
    """
    from msm_jax.evals import kinds
    from msm_jax.parallel.mesh import MeshConfig
    from msm_jax.sampling.checkpoint_model import CheckpointModel
    from msm_jax.sampling.engine import Sampler

    mesh = settings.build(MeshConfig, args["mesh"], "scoring.mesh")
    sampler = Sampler.from_checkpoint(Path(args["checkpoint"]), mesh, args["batch"])
    models = {"model": CheckpointModel(sampler, args["checkpoint"])}
    for index, spec in enumerate(args["evals"]):
        report({"step": index, "steps": len(args["evals"])})
        start = time.monotonic()
        config = kinds.build(spec["config"], f"evals.{spec['name']}")
        result = kinds.run(models, config).to_json()
        path = Path(spec["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**spec["description"], "result": result})
        times = path.with_name(TIMES)
        write_json(times, {**(read_json(times) or {}), spec["name"]: time.monotonic() - start})
