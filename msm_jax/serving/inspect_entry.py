"""What Inspect imports when it starts: the name of our provider, without JAX."""

from typing import Any

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="msm_jax")
def msm_jax() -> type[ModelAPI] | Any:
    """Returns the provider of the models `msm_jax/RUN`; RUN is a checkpoint, or a run directory for its newest one."""
    from msm_jax.serving.inspect_provider import CheckpointAPI

    return CheckpointAPI
