"""The pretraining of `make demo` as a phase of its own, for benchmarks that need a small step and its data."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from configs.experiments import cheese_mini
from msm_jax.data import sources, tokenizers
from msm_jax.foundation import settings
from msm_jax.miniworld import generate
from msm_jax.miniworld.config import WorldConfig
from msm_jax.training import origin, program, state
from msm_jax.training.config import PhaseConfig


def phase(directory: Path, variant: str = "", **overrides: Any) -> PhaseConfig:
    """Returns the settings of the phase, after writing its world, tokenizer and caches to `directory`.

    `variant` is the argument of `configs/experiments/cheese_mini.py`; with "tiny", world and phase are small.
    """
    config = settings.plain(cheese_mini.get_config(variant))
    world, tokenizer = directory / "world", directory / "tokenizer"
    world.mkdir()
    sizes = {name: value for name, value in config["world"].items() if name != "kind"}
    generate.write(WorldConfig(**sizes), world)
    texts = (document.text for document in sources.iter_documents(str(world / "pretrain" / "texts.jsonl")))
    chats = (turn["content"] for chat in sources.iter_chats(str(world / "pretrain" / "chats.jsonl"))
             for turn in chat.messages)
    tokenizers.train_sentencepiece(itertools.chain(texts, chats), tokenizer, config["tokenizer"]["vocab_size"])
    found = config["phases"]["pretrain"]
    for source in found["data"]["sources"].values():
        source["path"] = source["path"].format(world=world)
    found["data"]["cache_dir"] = str(directory / "tokens")
    return settings.build(
        PhaseConfig, {**found, "name": "pretrain", "seed": 0, "tokenizer": str(tokenizer), **overrides}
    )


def start(config: PhaseConfig, directory: Path, mesh: Mesh) -> tuple[Any, Any, origin.Origin]:
    """Returns the compiled train step of a phase from scratch, a new state, and the origin of the phase."""
    found = origin.find(config, directory / "run")
    shape = program.of_phase(config, found.model, found.adapter, found.beside)
    train_step = program.trace(shape, mesh).lower().compile()
    return train_step, state.create(shape.model, shape.adamw, mesh, jax.random.key(config.seed)), found
