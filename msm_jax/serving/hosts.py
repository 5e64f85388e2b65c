"""The hosts of this process: models that share a checkpoint share its engine, and so its weights and slots."""

from __future__ import annotations

import threading
from pathlib import Path

from msm_jax.checkpoints import compose, store
from msm_jax.parallel import backend
from msm_jax.serving.host import Host

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
    checkpoint = store.resolve(path).resolve()
    name = str(compose.directory_of(adapter).resolve()) if adapter else ""
    with _LOCK:
        if checkpoint not in _HOSTS:
            backend.keep_programs()
            backend.keep_freed_memory()
            _HOSTS[checkpoint] = Host(checkpoint, {name: name} if name else {})
        elif name not in _HOSTS[checkpoint].dialects:
            _HOSTS[checkpoint].add_adapter(name, name)
        return _HOSTS[checkpoint], name
