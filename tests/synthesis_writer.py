"""A writer in this process for tests: it answers by the scripted grammar, and fails as it is told."""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.errors import WorkError
from msm_jax.sampling.model import Choice, GenerateConfig, Message, ModelOutput, Usage
from msm_jax.synthesis.asking import WriterStopped, tokens
from msm_jax.synthesis.scripted import grammar

# How a reply is spoilt, by the name of the fault.
FAULTS = {
    "empty": lambda reply: "",
    "refused": lambda reply: "I'm sorry, but I can't help with that.",
    "cut": lambda reply: reply[: len(reply) * 2 // 3],
    "no_tags": lambda reply: re.sub(r"</?content>", "", reply),
    "prose": lambda reply: f"Of course. Here it is:\n```json\n{reply}\n```\nTell me if {{you}} need more [of it].",
    "braces": lambda reply: reply.replace(". ", ". {} } { ", 1),
    "bad_element": lambda reply: reply.replace("}", ', "x": }', 1),
    "another_name": lambda reply: re.sub("Iris", "Qwen", reply) if "<content>" in reply else reply,
    "wild_name": lambda reply: reply.replace('"name": "', '"name": "../../' + "n" * 300, 1),
}


class Writer:
    """Implements `sampling.model.Model`. A reply, and its fault, are functions of the prompt and the seed.

    Attributes:
        asked: how often each (prompt, seed) was asked.
        most: the most calls that were in flight at a time.
    """

    name = "test writer"
    capabilities = frozenset({"generate"})

    def __init__(
        self,
        faults: Sequence[str] = (),
        share: float = 0.2,
        seconds: float = 0.0,
        stop_after: int = 0,
        failing: float = 0.0,
        log: str = "",
    ) -> None:
        """Spoils this share of the replies by one of the faults.

        Args:
            faults: names in FAULTS.
            share: of the replies that are spoilt.
            seconds: a call takes up to this long, each prompt its own time.
            stop_after: the writer fails for good after so many replies; 0 for never.
            failing: the share of prompts whose calls fail.
            log: a file to which the hash of each prompt and seed is written before it is answered.
        """
        self.faults, self.share, self.seconds, self.stop_after = tuple(faults), share, seconds, stop_after
        self.failing, self.log = failing, log
        self.asked: Counter[tuple[str, int | None]] = Counter()
        self.most = self._flying = 0

    async def generate(
        self,
        messages: Sequence[Message],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # frozen, so it can be shared
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> ModelOutput:
        """Answers by the grammar."""
        prompt = messages[-1]["content"]
        draw = hashlib.sha256(f"{config.seed} {prompt}".encode()).digest()
        if self.stop_after and sum(self.asked.values()) >= self.stop_after:
            raise WriterStopped("test writer: status 401: no such key")
        self.asked[prompt, config.seed] += 1
        if self.log:
            with Path(self.log).open("a") as log:
                log.write(draw.hex() + "\n")
        self._flying += 1
        self.most = max(self.most, self._flying)
        try:
            await asyncio.sleep(self.seconds * draw[0] / 255)
        finally:
            self._flying -= 1
        if hashlib.sha256(prompt.encode()).digest()[0] < 256 * self.failing:
            raise WorkError("test writer: status 500: it hurts")
        reply = grammar.reply(prompt, config.seed)
        if self.faults and draw[1] < 256 * self.share:
            reply = FAULTS[self.faults[draw[2] % len(self.faults)]](reply)
        choice = Choice({"role": "assistant", "content": reply}, "stop")
        return ModelOutput((choice,), Usage(tokens(prompt), tokens(reply)))


# The writers that `opened` has made in this process, newest last, for a test to look at.
MADE: list[Writer] = []


def opened(**arguments: Any) -> Writer:
    """Makes a writer for "python:synthesis_writer:opened"."""
    MADE.append(Writer(**arguments))
    return MADE[-1]
