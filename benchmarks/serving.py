"""A server under clients that ask well, repeat themselves, hang up at any time and send rubbish.

    python benchmarks/serving.py

Every good request must get the text that it gets alone, and at the end as many requests as at the start must fit side
by side. Memory and open files of the server are sampled on the way.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record
from msm_jax import cli
from msm_jax.checkpoints import store
from msm_jax.data import templates, tokenizers
from msm_jax.errors import WorkError
from msm_jax.foundation import settings
from msm_jax.models import presets, transformer

ROOT = Path(__file__).resolve().parent.parent
_PRESET = flags.DEFINE_string("preset", "mini-0.3m", "The model's shape; its weights are random.")
_REQUESTS = flags.DEFINE_integer("requests", 10_000, "How many requests.")
_AT_ONCE = flags.DEFINE_integer("at_once", 32, "How many are in flight.")

# Seconds within which any request must be answered.
_PATIENCE = 300.0
_HEAD = b"Host: a\r\nConnection: close\r\nContent-Length: "
# What is sent, and the status of the answer; None for a refusal of any kind.
_RUBBISH: tuple[tuple[bytes, int | None], ...] = (
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 rubbish\r\n\r\n", None),
    (b"GET /nothing HTTP/1.1\r\n" + _HEAD + b"0\r\n\r\n", 404),
    (b"POST /v1/chat/completions HTTP/1.1\r\n" + _HEAD + b"104857600\r\n\r\nx", 413),
    (b"POST /v1/chat/completions HTTP/1.1\r\n" + _HEAD + b"4\r\n\r\n{{{{", 400),
    (b"POST /v1/chat/completions HTTP/1.1\r\n" + _HEAD + b"2\r\n\r\n{}", 400),
    (b'POST /v1/completions HTTP/1.1\r\n' + _HEAD + b'13\r\n\r\n{"model": []}', 400),
)


@dataclass
class Outcome:
    """What happened.

    Attributes:
        counts: requests by kind.
        problems: good requests that got another answer than alone, and rubbish that was not refused.
        memory: MiB that the server holds, sampled on the way.
        files: open files and sockets of the server before, and after the last client has gone.
        seconds: wall time.
    """

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: tuple[int, int] = (0, 0)
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """MiB by which the last quarter of the samples lies above the second one."""
        quarter = max(1, len(self.memory) // 4)
        return statistics.median(self.memory[-quarter:]) - statistics.median(self.memory[quarter : 2 * quarter])


class Clients:
    """Clients of one server at 127.0.0.1."""

    def __init__(self, port: int, model: str, process: int, seed: int) -> None:
        """Draws what the clients do from a seed."""
        self._port, self._model, self._process = port, model, process
        self._rng = random.Random(seed)
        self._texts: dict[int, str] = {}
        self.outcome = Outcome()

    async def storm(self, requests: int, at_once: int) -> Outcome:
        """Sends requests of all kinds, `at_once` in flight; then as many good ones at once, to see that all fit."""
        for number in range(8):
            self._texts[number] = await self._asked(number)
        kinds: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "good": (0.3, self._good),
            "good, streamed": (0.15, self._streamed),
            "repeated": (0.1, self._repeated),
            "cut": (0.3, self._cut),
            "half sent": (0.05, self._half),
            "rubbish": (0.1, self._rubbish),
        }
        await self._settled()
        before, began = self._files(), time.monotonic()
        left = requests

        async def client() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                kind = self._rng.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
                self.outcome.counts[kind] += 1
                await self._noting(kind, kinds[kind][1]())
                if left % max(1, requests // 40) == 0:
                    self.outcome.memory.append(self._memory())

        await asyncio.gather(*(client() for _ in range(at_once)))
        await asyncio.gather(*(self._noting("at the end", self._good()) for _ in range(2 * at_once)))
        await self._settled()
        self.outcome.seconds = time.monotonic() - began
        self.outcome.files = before, self._files()
        return self.outcome

    async def _noting(self, kind: str, work: Awaitable[None]) -> None:
        """Awaits a request; notes what went wrong with it."""
        try:
            await asyncio.wait_for(work, _PATIENCE)
        except (AssertionError, OSError, TimeoutError, EOFError, ValueError, LookupError) as error:
            self.outcome.problems.append(f"{kind}: {type(error).__name__}: {error}")

    def _body(self, number: int, stream: bool = False) -> bytes:
        chat = [{"role": "user", "content": f"Which lamp is number {number}? " * (1 + number)}]
        tokens = 3 + 5 * number
        asked: dict[str, Any] = {"model": self._model, "messages": chat, "max_tokens": tokens, "seed": number}
        body = json.dumps(asked | {"stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        return head.encode() + b"\r\n" + body

    async def _exchange(self, sent: bytes) -> tuple[int, bytes]:
        """Sends bytes and returns status and body of the answer; status 0 if there is none."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(sent)
            await writer.drain()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status = re.match(rb"HTTP/1\.1 (\d+)", head)
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join(re.findall(rb"^[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", body, re.M | re.S))
        return int(status[1]) if status else 0, body

    async def _asked(self, number: int) -> str:
        status, body = await self._exchange(self._body(number))
        assert status == 200, f"status {status}: {body[:200]!r}"
        return str(json.loads(body)["choices"][0]["message"]["content"])

    async def _good(self) -> None:
        number = self._rng.randrange(8)
        found = await self._asked(number)
        assert found == self._texts[number], f"question {number} got {found!r}"

    async def _streamed(self) -> None:
        number = self._rng.randrange(8)
        status, body = await self._exchange(self._body(number, stream=True))
        events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
        assert (status, events[-1:]) == (200, [b"[DONE]"]), f"status {status}: {body[-200:]!r}"
        found = "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])
        assert found == self._texts[number], f"question {number} streamed {found!r}"

    async def _repeated(self) -> None:
        number = self._rng.randrange(8)
        found = await asyncio.gather(*(self._asked(number) for _ in range(3)))
        assert set(found) == {self._texts[number]}, f"question {number} got {found!r}"

    async def _cut(self) -> None:
        """Hangs up between the request and the end of its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._body(self._rng.randrange(8), stream=self._rng.random() < 0.5))
        await writer.drain()
        if self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.random() / 4)
        else:
            await reader.read(100)
        if self._rng.random() < 0.5:
            writer.transport.abort()
        writer.close()

    async def _half(self) -> None:
        """Hangs up within the request."""
        sent = self._body(self._rng.randrange(8))
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(sent[: self._rng.randrange(len(sent))])
        await writer.drain()
        writer.close()

    async def _rubbish(self) -> None:
        sent, expected = self._rng.choice(_RUBBISH)
        if expected == 413:
            # The answer comes before the body has been sent.
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(sent)
            status = int((await reader.readline()).split()[1])
            writer.close()
        else:
            status, _ = await self._exchange(sent)
        assert status == expected or (expected is None and status in (0, 400)), f"{sent[:40]!r} got {status}"

    async def _settled(self) -> None:
        """Waits until the server has closed the connections of clients that have gone."""
        seen = [self._files()]
        while len(seen) < 4 or len(set(seen[-4:])) > 1:
            await asyncio.sleep(0.5)
            seen.append(self._files())

    def _files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self._process}/fd").iterdir())

    def _memory(self) -> float:
        pages = int(Path(f"/proc/{self._process}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Starts a server, sends the requests and publishes what happened."""
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(Path(directory) / "model")
        command = [sys.executable, "-m", "msm_jax.serve", f"--checkpoint={directory}/model", "--port=0"]
        outcome, status = served(command)
    record.publish(result(outcome, status))
    if outcome.problems:
        raise WorkError(f"{len(outcome.problems)} requests went wrong, the first: {outcome.problems[0]}")


def write_checkpoint(run_dir: Path) -> None:
    """Writes a run directory with random weights, and a tokenizer that is trained on a spec."""
    texts = (ROOT / "data/specs/oversight_philosophy.md").read_text().splitlines()
    tokenizers.train_sentencepiece([text for text in texts if text], run_dir / "tokenizer", vocab_size=1000)
    tokenizer = tokenizers.Tokenizer.load(run_dir / "tokenizer")
    config = presets.preset(_PRESET.value, vocab_size=1000)
    params = jax.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))
    info = {"model": settings.to_json(config), "step": 0}
    assets = {**tokenizer.files(), **templates.files(templates.ChatTemplate())}
    store.save(run_dir / "checkpoints" / "0", {"params": params}, info, assets)


def served(command: Sequence[str]) -> tuple[Outcome, int]:
    """Runs the server's command, sends the requests, stops it by Ctrl-C, and returns its exit status too."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        found = re.match(r"serving (\S+) at http://127\.0\.0\.1:(\d+)/", server.stdout.readline())
        if found is None:
            raise WorkError("the server did not start; see its message above")
        outcome = asyncio.run(Clients(int(found[2]), found[1], server.pid, 0).storm(_REQUESTS.value, _AT_ONCE.value))
        server.send_signal(signal.SIGINT)
        return outcome, server.wait()


def result(outcome: Outcome, status: int) -> record.Result:
    """Returns the result as a section of the document."""
    rows = tuple((kind, f"{count:,}") for kind, count in sorted(outcome.counts.items()))
    held = outcome.memory
    about = (
        f"{sum(outcome.counts.values()):,} requests to one server, {_AT_ONCE.value} in flight, in "
        f"{outcome.seconds:.0f} seconds. A repeated request is sent three times at once; one that is cut hangs up "
        "between the request and the end of its answer."
    )
    notes = (
        f"{len(outcome.problems)} requests went wrong: good ones must get the text that they get alone. The server "
        f"held {held[0]:.0f} MiB at first and {held[-1]:.0f} MiB at the end (last quarter of the samples against the "
        f"second: {outcome.growth:+.1f} MiB), {outcome.files[0]} open files before and {outcome.files[1]} after. "
        f"It ended on Ctrl-C with status {status}."
    )
    return record.Result("Serving", about, ("kind of request", "number"), rows, notes)


if __name__ == "__main__":
    cli.run(main)
