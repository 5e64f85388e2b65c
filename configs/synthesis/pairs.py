"""Preference pairs from a Model Spec: an answer that a judge passes, and a worse one to the same message.

    python -m msm_jax.generate --config=configs/synthesis/pairs.py:SPEC.md --preview
    python -m msm_jax.generate --config=configs/synthesis/pairs.py:SPEC.md --workdir=runs/pairs
    python -m msm_jax.train --config=configs/dpo.py:runs/sft --config.data.sources.pairs.path=runs/pairs/pairs.jsonl

Writer, judge, plan and gates are those of configs/synthesis/demonstrations.py; docs/data.md says how to choose them.
"""

from ml_collections import ConfigDict

from configs.synthesis import demonstrations


def get_config(spec: str = "data/specs/oversight_philosophy.md") -> ConfigDict:
    config = demonstrations.get_config(spec)
    config.kind = "pairs"
    del config.identity
    config.reply.reasoning_tokens = 0
    # How worse answers fall short: "plain", "reasons", "contrary"; and "other", for the style "opaque".
    config.rivals = ("plain", "reasons", "contrary")
    return config
