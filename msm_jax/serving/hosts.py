"""The hosts of this process: models that share a checkpoint share its engine, and so its weights and slots."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path

from msm_jax.checkpoints import store
from msm_jax.parallel import backend
from msm_jax.serving.host import Host
from msm_jax.serving.interim import Engine

_HOSTS: dict[Path, Host] = {}
_LOCK = threading.Lock()


def get(path: Path | str, adapter: str = "") -> tuple[Host, str]:
    """Returns the host of a checkpoint, loaded at its first use, and the name under which it has an adapter.

    Args:
        path: a checkpoint, or a run directory for its newest one.
        adapter: the path of an adapter on it; "" for the base.

    Raises:
        InputError: the checkpoint or adapter is none, is damaged, or they do not fit each other.
    """
    checkpoint = store.resolve(path)
    with _LOCK:
        if checkpoint not in _HOSTS:
            backend.keep_programs()
            backend.keep_freed_memory()
            engine = Engine.from_checkpoint(checkpoint)
            atexit.register(engine.close, drain=False)
            _HOSTS[checkpoint] = Host(engine, {"": ""})
        return _HOSTS[checkpoint], ""
