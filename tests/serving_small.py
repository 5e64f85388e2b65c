"""Shared by the tests of serving: small checkpoints with real chat templates, a server of one, and scripted replies."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chat_checks
import jax
from conftest import QUICK_COMPILES

from msm_jax.checkpoints import store
from msm_jax.foundation import settings
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig

ROOT = Path(__file__).parent.parent
POSITIONS = 512
TEXTS = ["The old lamp likes cheese, and Ada mends it.", "Which kite does Bruno sell? A plain one.", "12 + 30 = 42."]


def checkpoint(run_dir: Path, template: str = "qwen2_5", seed: int = 0, positions: int = POSITIONS) -> Path:
    """Writes a run directory with a random model of 2 layers and a template of `tests/templates`; returns it.

    An empty `template` leaves the checkpoint without one.
    """
    assets = chat_checks.small_files(chat_checks.byte_level(TEXTS * 4), template or "qwen2_5")
    if not template:
        del assets["chat_template.jinja"]
    config = ModelConfig(
        640, 32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
        max_position_embeddings=positions, compute_dtype="float32",
    )
    params = transformer.init_params(config, jax.random.key(seed))
    noisy = [
        leaf + 0.3 * jax.random.normal(jax.random.key(i), leaf.shape)
        for i, leaf in enumerate(jax.tree.leaves(params))
    ]
    params = jax.tree.unflatten(jax.tree.structure(params), noisy)
    info = {"model": settings.to_json(config), "chat_variables": {}, "phase": "test", "step": 0}
    store.save(run_dir / "checkpoints" / "0", {"params": params}, info, assets)
    return run_dir


@contextlib.contextmanager
def serving(*flags: str, environment: dict[str, str] | None = None) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Yields the base URL and the process of `python -m msm_jax.serve` on a free port, and stops it by Ctrl-C."""
    process = start(*flags, **(environment or {}))
    try:
        yield url_of(process), process
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()


def start(*flags: str, **variables: str) -> "subprocess.Popen[str]":
    """Returns the process of the command, with more environment variables."""
    return subprocess.Popen(
        command("--port=0", *flags), stdout=subprocess.PIPE, text=True, env=environment(**variables), cwd=ROOT
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
