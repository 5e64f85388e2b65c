"""Settings of evals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from msm_jax.errors import InputError

Kind = Literal["preference", "preference_probability", "preference_greedy", "knowledge"]


@dataclass(frozen=True)
class EvalConfig:
    """One eval.

    Attributes:
        kind: "preference" says which of the two answers to a pair is the more probable, "preference_probability" by how
            much, "preference_greedy" reads the answer that the model gives, "knowledge" compares continuations of plain
            text.
        path: the item file: JSONL, a comma list or a glob.
        max_new_tokens: most tokens of an answer ("preference_greedy").
    """

    kind: Kind
    path: str
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        """Refuse a path that is not set and answers without tokens."""
        if not self.path:
            raise InputError("path: is not set; name the file of the items")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens: is {self.max_new_tokens}; it must be at least 1")


@dataclass(frozen=True)
class EvaluateConfig:
    """Evals to run on one checkpoint.

    Attributes:
        evals: by name.
        batch: most prompts that are decoded side by side.
        threads: size of XLA's CPU thread pool; 0 for one per core.
        chat_variables: what the chat template is told over what it was in training, such as enable_thinking.
    """

    evals: Mapping[str, EvalConfig]
    batch: int = 64
    threads: int = 0
    chat_variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a config without evals, and names that cannot be file names."""
        if not self.evals:
            raise InputError("evals: is empty; name at least one")
        for name in self.evals:
            if not name or name.startswith(".") or "/" in name:
                raise InputError(f'evals: {name!r} must be a name without "/" that does not begin with a dot')
        if self.batch < 1:
            raise InputError(f"batch: is {self.batch}; it must be at least 1")
        if self.threads < 0:
            raise InputError(f"threads: is {self.threads}; it must be 0 (one per core) or positive")
