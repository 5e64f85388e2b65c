"""Settings of the data room: which files, in what proportions, in rows of what length."""

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
      kind: "documents" ({"text": ...} records) or "chats" ({"messages": [...]} records).
      holdout: fraction of the documents, in [0, 1), kept out of training in every phase and for every seed.
      too_long: what becomes of a chat that takes more slots than a row has: "refuse" the data, or "drop" it. Documents
        are cut into rows.
    """

    path: str
    kind: Literal["documents", "chats"] = "documents"
    holdout: float = 0.0
    too_long: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdout < 1.0:
            raise InputError(f"holdout: is {self.holdout}; use a fraction from 0 to below 1")


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """How chats are written and which of their tokens carry loss.

    A checkpoint records this, and sampling from it tells the template the same `variables`.

    Attributes:
      thinking: of the assistant (`reasoning_content`, or a <think> block that begins its content): "keep" it with
        loss, "mask" it (written, without loss), or "strip" it before the template sees the chat.
      history: where a template rewrites earlier turns once others follow (Qwen3 takes out their thinking), "split"
        trains each turn in the chat as it stood when it was said, at the cost of reading the chat several times;
        "last" leaves the turns that were rewritten without loss.
      variables: what the template is told besides the messages: {"enable_thinking": False}, {"tools": [...]} for
        chats without their own, a date.
    """

    thinking: Literal["keep", "mask", "strip"] = "keep"
    history: Literal["split", "last"] = "split"
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.variables:
            if name in ("messages", "add_generation_prompt"):
                raise InputError(f"variables.{name}: is what the template is given anyway; remove it")
        try:
            json.dumps(self.variables)
        except TypeError as e:
            raise InputError(f"variables: {e}; use strings, numbers, booleans, lists and mappings") from None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a phase reads.

    Attributes:
      seq_len: slots per row; a slot is one input token and the target after it.
      sources: the sources by name.
      weights: share of the rows per source from step 0 on; scaled to sum to 1; a source left out has 0.
      stages: (first step, weights) pairs that take over later; each source goes on where it stood.
      cache_dir: where tokenised sources are kept; empty means the directory that `Loader` is given.
      chat: how chats are written.
    """

    seq_len: int
    sources: Mapping[str, SourceConfig]
    weights: Mapping[str, float]
    stages: tuple[tuple[int, Mapping[str, float]], ...] = ()
    cache_dir: str = ""
    chat: ChatConfig = dataclasses.field(default_factory=ChatConfig)

    def __post_init__(self) -> None:
        if self.seq_len < 2:
            raise InputError(f"seq_len: is {self.seq_len}; a row needs at least 2 slots")
        if not self.sources:
            raise InputError("sources: is empty; name at least one source")
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
        """The stages including the first, (0, weights), in order."""
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
