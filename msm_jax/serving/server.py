"""An ASGI application on a socket, by uvicorn. starlette and uvicorn are the extra `serve`."""

from __future__ import annotations

import socket
from typing import Any

from msm_jax.errors import InputError

# Connections that wait for a request are closed after this many seconds.
_KEEP_ALIVE_SECONDS = 30


def check_installed() -> None:
    """Refuses where the packages of a server are not installed.

    Raises:
        InputError: names the commands that install them.
    """
    try:
        import starlette  # noqa: F401  # to see whether it is there
        import uvicorn  # noqa: F401  # to see whether it is there
    except ImportError as error:
        raise InputError(
            f"serving needs the package {error.name}; run make inspect and use .venv-inspect/bin/python, or "
            "pip install 'msm_jax[serve]'"
        ) from None


def run(application: Any, listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM: then takes no more requests, waits for those in progress, and raises
    `KeyboardInterrupt`. A second signal does not wait."""
    import uvicorn

    config = uvicorn.Config(
        application,
        log_config=None,
        # It warns of every connection that does not speak HTTP.
        log_level="error",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        lifespan="off",
    )
    uvicorn.Server(config).run(sockets=[listener])
