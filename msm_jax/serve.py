"""Serves a checkpoint, and adapters on it, by the OpenAI protocol.

    python -m msm_jax.serve --checkpoint=RUN
    python -m msm_jax.serve --checkpoint=BASE --adapter=kind=runs/kind --adapter=terse=runs/terse --port=8001

Answers `/v1/models`, `/v1/chat/completions` and `/v1/completions` until Ctrl-C, which lets the requests in progress
end. The base has the name of its run directory; each adapter has the NAME of its flag. Listens on this machine alone;
another --host needs a token in the environment variable MSM_JAX_SERVE_TOKEN, which clients send as their API key.
"""

import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from msm_jax import cli
from msm_jax.checkpoints import store
from msm_jax.errors import InputError
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.serving import app, server
from msm_jax.serving.host import Host

TOKEN = "MSM_JAX_SERVE_TOKEN"
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A checkpoint, or a run directory for its newest one.")
_ADAPTER = flags.DEFINE_multi_string(
    "adapter", [], "NAME=PATH of an adapter on that checkpoint; may be given several times."
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "The address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "The port to listen on; 0 for any free one.", 0, 65535)
_SLOTS = flags.DEFINE_integer("slots", 32, "The most replies that are drawn side by side; more requests wait.")
_CACHE_MIB = flags.DEFINE_integer(
    "cache_mib", 0, "MiB for the keys and values of requests; 0 for half of an accelerator's free memory, or for 1024."
)
_TENSOR = flags.DEFINE_integer("tensor", 1, "Devices over which heads and vocabulary are split.", 1)
_THREADS = flags.DEFINE_integer("threads", 0, "Size of XLA's CPU thread pool; 0 for one per core.")


def main() -> None:
    """Refuses what cannot be served before it loads the model; then serves."""
    server.check_installed()
    checkpoint = store.resolve(cli.require(_CHECKPOINT))
    adapters = named(_ADAPTER.value)
    base = name_of(checkpoint)
    if base in adapters:
        raise InputError(f"--adapter={base}={adapters[base]}: the checkpoint has this name too; choose another")
    token = os.environ.get(TOKEN, "")
    if not token and not is_loopback(_HOST.value):
        raise InputError(f"--host={_HOST.value} is open to other machines; set a token in {TOKEN}")
    with listening(_HOST.value, _PORT.value) as listener:
        cli.prepare_backend(devices=_TENSOR.value, threads=_THREADS.value)
        mesh = MeshConfig(tensor=_TENSOR.value)
        host = Host(checkpoint, adapters, mesh=mesh, slots=_SLOTS.value, cache_mib=_CACHE_MIB.value)
        models = {base: "", **{name: name for name in adapters}}
        address, port = listener.getsockname()[:2]
        where = f"[{address}]" if ":" in address else address
        # uvicorn raises the signals that it has caught once more when the last request has ended.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        line = f"serving {', '.join(models)} at http://{where}:{port}/v1"
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server.run(app.application(host, models, token), listener, lambda: print(line, flush=True))
        finally:
            host.engine.close(drain=True)
        print("stopped", flush=True)


def named(values: Sequence[str]) -> dict[str, str]:
    """Returns the paths of adapters by name.

    Raises:
        InputError: a value is not NAME=PATH, or a name is given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, _, path = value.partition("=")
        if not name or not path:
            raise InputError(f"--adapter={value}: write it as NAME=PATH")
        if name in found:
            raise InputError(f"--adapter={value}: the name {name} is given twice; choose another")
        found[name] = path
    return found


def name_of(checkpoint: Path) -> str:
    """Returns the name of the run directory of a checkpoint `RUN/checkpoints/STEP`."""
    return checkpoint.resolve().parent.parent.name


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound, before a model is loaded for nothing.

    Raises:
        InputError: the port is in use, or the address is not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise InputError(f"--host={host} --port={port}: {reason}; choose another port") from None


if __name__ == "__main__":
    cli.run(main)
