"""Settings of the command `evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msm_jax.errors import InputError


@dataclass(frozen=True)
class EvaluateConfig:
    """Evals to run on one checkpoint.

    Attributes:
        evals: the fields of each eval by its name; `kinds.build` makes settings of them.
        batch: the most prompts that are decoded side by side.
        cache_mib: memory for the keys and values of these prompts, in MiB; 0 for half of the device's free memory, or
            1 GiB on a CPU. A prompt that cannot fit is refused.
        threads: size of XLA's CPU thread pool; 0 for one per core.
        chat_variables: variables that the chat template gets on top of those it had in training, such as
            enable_thinking.
    """

    evals: Mapping[str, Mapping[str, Any]]
    batch: int = 64
    cache_mib: int = 0
    threads: int = 0
    chat_variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a config without evals, and names that cannot be file names."""
        if not self.evals:
            raise InputError("evals: is empty; name at least one")
        for name in self.evals:
            if not name or name.startswith(".") or "/" in name:
                raise InputError(f'evals: {name!r} must be a name without "/" that does not begin with a dot')
        if self.batch < 1:
            raise InputError(f"batch: is {self.batch}; it must be at least 1")
        if self.cache_mib < 0:
            raise InputError(f"cache_mib: is {self.cache_mib}; it must be 0 (half of the free memory) or positive")
        if self.threads < 0:
            raise InputError(f"threads: is {self.threads}; it must be 0 (one per core) or positive")
