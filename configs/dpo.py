"""Preference optimisation (DPO) on pairs of answers, of which one is preferred.

    python -m msm_jax.train --config=configs/dpo.py:runs/sft --workdir=runs/dpo

The reference is the checkpoint that the phase starts from. `--config=configs/dpo.py:runs/sft,lora` trains an adapter
instead, with the frozen checkpoint as the reference, so that nothing is computed ahead.
"""

from ml_collections import ConfigDict

from configs import sft


def get_config(start: str = "runs/sft") -> ConfigDict:
    checkpoint, _, lora = start.partition(",")
    config = sft.get_config(checkpoint)
    config.name = "dpo"
    config.steps = 30
    config.batch_rows = 4

    config.data.sources = {"pairs": {"path": "data/examples/preferences.jsonl", "kind": "pairs", "holdout": 0.1}}
    config.data.weights = {"pairs": 1.0}
    config.dpo = {"beta": 0.1}
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 3
    if lora:
        config.lora = {"rank": 8, "alpha": 16.0}
        config.adapter = "stack"
        config.dpo.reference = "base"
    return config
