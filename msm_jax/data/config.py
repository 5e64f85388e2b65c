"""Settings of the data room: the files to read, their proportions, and the length of a row."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from msm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of text.

    Attributes:
      path: a file, a comma list of files, or globs of `.jsonl`, `.jsonl.gz`, `.jsonl.zst` and `.parquet` files, each
        local, at gs://, or at hf://datasets/OWNER/NAME[@REVISION]/FILE; see `files`.
      kind: "documents" ({"text": ...} records), "chats" ({"messages": [...]} records), or "pairs" ({"messages": [...],
        "chosen": ..., "rejected": ...} records, for preference optimisation).
      holdout: fraction of the documents, in [0, 1), kept out of training in every phase and for every seed.
      too_long: what happens to a chat or a pair that takes more slots than a row has: "refuse" refuses the data, "drop"
        leaves it out. A pair takes the slots of both answers, each after the prompt. A document that is too long is
        cut into several rows.
      malformed: what happens to a line that is no document, chat or pair, or that the chat template refuses: "refuse"
        refuses the data, "skip" leaves the line out, logs it by file and line, and counts it.
    """

    path: str
    kind: Literal["documents", "chats", "pairs"] = "documents"
    holdout: float = 0.0
    too_long: Literal["refuse", "drop"] = "refuse"
    malformed: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdout < 1.0:
            raise InputError(f"holdout: is {self.holdout}; use a fraction from 0 to below 1")


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """How chats are written and which of their tokens carry loss.

    A checkpoint records the `variables`, and sampling from it gives the same ones to the template.

    Attributes:
      thinking: what happens to the assistant's thinking (`reasoning_content`, or a <think> block at the start of its
        content): "keep" writes it with loss, "mask" writes it without loss, "strip" removes it before the template
        is applied.
      history: what happens when a template rewrites earlier turns after later ones are added (Qwen3 removes their
        thinking): "split" trains each turn within the chat as it was at that turn, which reads the chat several
        times; "last" puts no loss on turns that are rewritten.
      variables: what the template is given besides the messages: {"enable_thinking": False}, a date, or
        {"tools": [...]} for chats without tools of their own.
    """

    thinking: Literal["keep", "mask", "strip"] = "keep"
    history: Literal["split", "last"] = "split"
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.variables:
            if name in ("messages", "add_generation_prompt"):
                raise InputError(f"variables.{name}: the template is always given this; remove it")
        try:
            json.dumps(self.variables)
        except TypeError as e:
            raise InputError(f"variables: {e}; use strings, numbers, booleans, lists and mappings") from None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data of a phase.

    Attributes:
      seq_len: slots per row; a slot is one input token and the target after it.
      sources: the sources by name.
      weights: the share of the rows that each source has from step 0 on, scaled to sum to 1; a source that is
        missing has 0.
      stages: (first step, weights) pairs: from each first step on, its weights replace those before. Each source
        continues with the row after its last one.
      epochs: how often the phase is meant to read each source; a source that is missing has no such number. It changes
        no batch, and data of another size is noticed by it; see `epochs`.
      cache_dir: where tokenised sources are kept; "" means the directory that `Loader` is given.
      chat: how chats are written.
    """

    seq_len: int
    sources: Mapping[str, SourceConfig]
    weights: Mapping[str, float]
    stages: tuple[tuple[int, Mapping[str, float]], ...] = ()
    epochs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cache_dir: str = ""
    chat: ChatConfig = dataclasses.field(default_factory=ChatConfig)

    def __post_init__(self) -> None:
        if self.seq_len < 2:
            raise InputError(f"seq_len: is {self.seq_len}; a row needs at least 2 slots")
        if not self.sources:
            raise InputError("sources: is empty; name at least one source")
        for name, count in self.epochs.items():
            if name not in self.sources:
                raise InputError(f"epochs.{name}: no such source; the sources are {', '.join(sorted(self.sources))}")
            if not math.isfinite(count) or count <= 0:
                raise InputError(f"epochs.{name}: is {count}; use a number above 0")
        previous = 0
        self._check_weights("weights", self.weights)
        for i, (start, weights) in enumerate(self.stages):
            if start <= previous:
                raise InputError(
                    f"stages[{i}]: starts at step {start}, not after step {previous}; "
                    "list the stages by rising first step"
                )
            self._check_weights(f"stages[{i}]", weights)
            previous = start
        used = {name for _, weights in self.all_stages() for name, weight in weights.items() if weight > 0}
        for name in sorted(self.sources):
            if name not in used:
                raise InputError(
                    f"weights.{name}: the source has no weight in any stage; give it one or remove it"
                )

    def all_stages(self) -> tuple[tuple[int, Mapping[str, float]], ...]:
        """Returns the stages in order, with (0, weights) as the first."""
        return ((0, self.weights), *self.stages)

    def _check_weights(self, where: str, weights: Mapping[str, float]) -> None:
        for name in sorted(weights):
            if name not in self.sources:
                raise InputError(
                    f"{where}.{name}: no such source; the sources are {', '.join(sorted(self.sources))}"
                )
            if not math.isfinite(weights[name]) or weights[name] < 0:
                raise InputError(f"{where}.{name}: is {weights[name]}; use a number from 0 up")
        if not any(weight > 0 for weight in weights.values()):
            raise InputError(f"{where}: the mixture is empty; give at least one source a weight above 0")
