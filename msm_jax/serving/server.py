"""An ASGI application on a socket, by uvicorn. starlette and uvicorn are the extra `serve`."""

from __future__ import annotations

import socket
from collections.abc import Callable
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


def run(application: Any, listener: socket.socket, serving: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM: then takes no more requests, waits for those in progress, and ends.

    A second SIGINT does not wait. At the end the signals are raised once more, for the handlers that were there before,
    so that with Python's own `KeyboardInterrupt` comes out of it.

    Args:
        application: an ASGI application.
        listener: the socket on which it answers.
        serving: is called once it answers; from then on signals end it as described.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            serving()

    config = uvicorn.Config(
        application,
        log_config=None,
        # It warns of every connection that does not speak HTTP.
        log_level="error",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        lifespan="off",
    )
    Server(config).run(sockets=[listener])
