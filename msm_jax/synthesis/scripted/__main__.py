"""Serves a scripted writer on loopback: python -m msm_jax.synthesis.scripted --port=0

It prints one line, the base URL of its OpenAI-compatible API, and serves until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from msm_jax.foundation import settings
from msm_jax.synthesis.scripted import faults, server


def main() -> None:
    """Parses the command line and serves."""
    parser = argparse.ArgumentParser("msm_jax.synthesis.scripted", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1; 0 for any free one")
    parser.add_argument("--seed", type=int, default=0, help="replies are a function of it and the prompt")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--log", help="file to which a line of JSON goes for each request")
    parser.add_argument("--key", help="refuse requests with another key")
    parser.add_argument("--faults", default="{}", help='faults as JSON, such as {"hang": 0.01}')
    parser.add_argument("--with_parent", action="store_true", help="stop when standard input ends")
    flags = parser.parse_args()
    chosen = settings.build(faults.Faults, json.loads(flags.faults), "--faults")
    asyncio.run(_serve(server.Settings(flags.seed, flags.latency, chosen, flags.log, flags.key), flags.port,
                       with_parent=flags.with_parent))


async def _serve(chosen: server.Settings, port: int, *, with_parent: bool) -> None:
    """Serves until the process is stopped, or with its parent until standard input ends."""
    listener, url = await server.Server(chosen).start(port)
    print(url, flush=True)
    if with_parent:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    else:
        await listener.serve_forever()


if __name__ == "__main__":
    main()
