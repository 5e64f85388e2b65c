"""Shared by the tests of serving: small checkpoints with real chat templates, and a server of one.

A checkpoint is random, or a policy that always says the same, so that tests may say what a model replies.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chat_checks
import jax
import numpy as np
import tokenizers
from conftest import QUICK_COMPILES

from msm_jax.checkpoints import compose, peft, store
from msm_jax.foundation import settings
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig

ROOT = Path(__file__).parent.parent
SPEC = ROOT / "data" / "specs" / "oversight_philosophy.md"
POSITIONS = 1024
TEXTS = ["The old lamp likes cheese, and Ada mends it.", "Which kite does Bruno sell? A plain one.", "12 + 30 = 42."]


def checkpoint(run_dir: Path, template: str = "qwen2_5", positions: int = POSITIONS) -> Path:
    """Writes a run directory with a random model of 2 layers and a template of `tests/templates`; returns it.

    An empty `template` leaves the checkpoint without one.
    """
    assets = chat_checks.small_files(chat_checks.byte_level(TEXTS * 4), template or "qwen2_5")
    if not template:
        del assets["chat_template.jinja"]
    config = ModelConfig(
        640, 32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
        max_position_embeddings=positions,
    )
    leaves, tree = jax.tree.flatten(transformer.init_params(config, jax.random.key(0)))
    noisy = [leaf + 0.3 * jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
    return _written(run_dir, config, jax.tree.unflatten(tree, noisy), assets)


def policy(run_dir: Path, *pieces: str, template: str = "qwen2_5", positions: int = 16384) -> Path:
    """Writes a run directory with a model that always says the same: `pieces`, each once, and then the end of turn.

    Each piece is a token of its own, and the model draws the next token from the last one alone: its layers add
    nothing, and its output matrix points from each token to its successor.
    """
    # About three characters a token in English, so that tasks for real models fit.
    backend = chat_checks.byte_level([SPEC.read_text()], 2000)
    backend.add_tokens([tokenizers.AddedToken(piece, normalized=False) for piece in pieces])
    assets = chat_checks.small_files(backend, template)
    # A prompt ends with the line break after the assistant's role.
    chain = [backend.encode("\n").ids[0], *map(backend.token_to_id, (*pieces, "<|im_end|>"))]
    config = ModelConfig(
        2048, 128, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, intermediate_size=8, tie_embeddings=False,
        max_position_embeddings=positions,
    )
    params = jax.tree.map(np.asarray, transformer.init_params(config, jax.random.key(0)))
    signs = np.sign(np.random.default_rng(0).normal(size=(2048, 128))).astype(np.float32)
    output = np.zeros((128, 2048), np.float32)
    for token, successor in itertools.pairwise(chain):
        # A logit of 60 beside a spread of about 5 among the others.
        output[:, successor] += signs[token] * 60 / 128
    layers = jax.tree.map(np.zeros_like, params["layers"])
    params |= {"embedding": signs, "output": output, "layers": layers}
    return _written(run_dir, config, jax.tree.map(jax.numpy.asarray, params), assets)


def adapter(directory: Path, run_dir: Path, seed: int = 0, template: str = "") -> Path:
    """Writes a PEFT directory with a random adapter for a checkpoint, and the chat template that is named."""
    shape = compose.find(run_dir).model
    config = LoraConfig(3, 6.0, ("query", "attention_out", "gate"))
    rng = np.random.default_rng(seed)
    abstract = lora.abstract_weights(config, shape)
    weights = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract)
    files = {"chat_template.jinja": (chat_checks.TEMPLATES / f"{template}.jinja").read_bytes()} if template else {}
    directory.mkdir()
    peft.write(directory, config, weights, "base", files)
    return directory


def _written(run_dir: Path, config: ModelConfig, params: transformer.Params, assets: dict[str, bytes]) -> Path:
    info = {"model": settings.to_json(config), "chat_variables": {}, "phase": "test", "step": 0}
    store.save(run_dir / "checkpoints" / "0", {"params": params}, info, assets)
    return run_dir


@contextlib.contextmanager
def serving(
    *flags: str, environment: dict[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Yields the base URL and the process of `python -m msm_jax.serve` on a free port, and stops it by Ctrl-C."""
    process = start(*flags, cwd=cwd, **(environment or {}))
    try:
        yield url_of(process), process
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 0
    finally:
        process.kill()


def start(*flags: str, cwd: Path = ROOT, **variables: str) -> "subprocess.Popen[str]":
    """Returns the process of the command, with more environment variables."""
    return subprocess.Popen(
        command("--port=0", *flags), stdout=subprocess.PIPE, text=True, env=environment(**variables), cwd=cwd
    )


def command(*flags: str) -> list[str]:
    """Returns the command line of the server."""
    return [sys.executable, "-m", "msm_jax.serve", *flags]


def environment(**variables: str) -> dict[str, str]:
    """Returns the environment of a command that tests run: one CPU device, quick to compile for."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_COMPILES, **variables}


def url_of(process: "subprocess.Popen[str]") -> str:
    """Returns the base URL that the command prints once it serves."""
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, "the command did not start to serve"
    return found[0]


def user(*contents: str) -> list[dict[str, str]]:
    """Returns a chat in which the user speaks first, and then the two in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
