"""Settings of how tokens are drawn."""

import math
from dataclasses import dataclass

from msm_jax.errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of one `generate` call.

    Attributes:
        max_new_tokens: the most tokens that a reply may have.
        temperature: divides the logits; 0 takes the most likely token each time (greedy).
        top_k: draws only from the k most likely tokens; 0 for all.
        top_p: draws, among those, only from the smallest set of most likely tokens whose probability reaches p; 1 for
            all.
        stop: a reply ends before the first occurrence of any of these strings.
        seed: request i of a call draws with seed + i, unless the call gives each request its own.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values outside their ranges."""
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens = {self.max_new_tokens}; it must be at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature = {self.temperature}; it must be 0 (greedy) or a positive number")
        if self.top_k < 0:
            raise InputError(f"top_k = {self.top_k}; it must be 0 (all tokens) or positive")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p}; it must be above 0 and at most 1")
        if any(not text for text in self.stop):
            raise InputError("stop: a stop string is empty; remove it")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed = {self.seed}; it must be from 0 to {2**31 - 1}")
