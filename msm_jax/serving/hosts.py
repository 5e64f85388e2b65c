"""The hosts of this process: models that share a checkpoint share its engine, and so its weights and slots."""

from __future__ import annotations

import threading
from pathlib import Path

from msm_jax.checkpoints import compose, store
from msm_jax.errors import InputError
from msm_jax.parallel import backend
from msm_jax.serving.host import Host

# Each host, and the settings of its engine that were given when it was loaded.
_HOSTS: dict[Path, tuple[Host, dict[str, int]]] = {}
_LOCK = threading.Lock()


def get(path: Path | str, adapter: str = "", **engine: int) -> tuple[Host, str]:
    """Returns the host of a checkpoint, loaded at its first use, and the name under which it has an adapter.

    Args:
        path: a checkpoint, or a run directory for its newest one.
        adapter: the path of an adapter on it; "" for the base.
        engine: `slots` and `cache_mib` of `Engine.from_checkpoint`, if they are to differ from its defaults.

    Raises:
        InputError: the checkpoint or adapter is none, is damaged, or they do not fit each other; a setting is out of
            range; or the checkpoint is loaded already, without this setting.
    """
    checkpoint = store.resolve(path).resolve()
    name = str(compose.directory_of(adapter).resolve()) if adapter else ""
    with _LOCK:
        if checkpoint not in _HOSTS:
            backend.keep_programs()
            backend.keep_freed_memory()
            _HOSTS[checkpoint] = Host(checkpoint, {name: name} if name else {}, **engine), engine
        host, given = _HOSTS[checkpoint]
        for setting, value in engine.items():
            if given.get(setting) != value:
                raise InputError(
                    f"{setting} = {value}: the checkpoint is loaded already, with {setting} = "
                    f"{given.get(setting, 'its default')}; all its models share an engine, so give the first the same"
                )
        if name not in host.dialects:
            host.add_adapter(name, name)
        return host, name
