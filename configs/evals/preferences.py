"""Preference pairs, scored by log-probability and by the answer that the model generates.

    python -m msm_jax.evaluate --config=configs/evals/preferences.py:PAIRS.jsonl --checkpoint=RUN --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config(pairs: str = "data/examples/pairs.jsonl") -> ConfigDict:
    return ConfigDict(
        {
            "evals": {
                "prefer": {"kind": "preference", "path": pairs},
                "prefer_greedy": {"kind": "preference_greedy", "path": pairs, "max_new_tokens": 32},
            },
            "batch": 64,
            "threads": 0,
        }
    )
