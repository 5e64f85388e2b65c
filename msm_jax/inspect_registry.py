"""What Inspect imports by the entry point of this package: the provider `msm_jax/RUN` and the tasks `msm_jax/EVAL`."""

from msm_jax.evals.inspect_tasks import (
    agentic_misalignment,
    alignment_faking,
    alignment_faking_choice,
    capability,
    forced_choice_misalignment,
    knowledge,
    knowledge_recall,
    open_qa,
    opinions,
    preference,
    preference_greedy,
    reasoning,
)
from msm_jax.serving.inspect_entry import msm_jax

__all__ = [
    "agentic_misalignment",
    "alignment_faking",
    "alignment_faking_choice",
    "capability",
    "forced_choice_misalignment",
    "knowledge",
    "knowledge_recall",
    "msm_jax",
    "open_qa",
    "opinions",
    "preference",
    "preference_greedy",
    "reasoning",
]
