"""AdamW with warmup, a cosine or constant schedule, and clipping by global norm."""

from __future__ import annotations

import jax
import optax

from msm_jax.training.config import OptimizerConfig


def schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step: linear warmup from 0 over `warmup_steps`, then constant, or
    a cosine down to `final_fraction` of the peak at `total_steps`."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup), alpha=config.final_fraction)
    if warmup == 0:
        return after

    def ramp(step: jax.Array) -> jax.Array:
        # Warmup counts from 1, so that no step has rate zero.
        return peak * (step + 1) / (warmup + 1)

    return optax.join_schedules([ramp, after], [warmup])


def _decayed(params: optax.Params) -> optax.Params:
    # Norm scales and biases are not decayed, as in the Llama and Qwen recipes.
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not path[-1].key.endswith(("_norm", "_bias")), params
    )


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Returns clipping, then AdamW (arXiv 1711.05101) with decoupled decay on matrices and embeddings."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config, total_steps), b1=config.b1, b2=config.b2, eps=config.eps,
            weight_decay=config.weight_decay, mask=_decayed,
        ),
    )
