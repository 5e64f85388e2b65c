"""Fine-tuning on demonstrations, with a loss on the words of the assistant alone.

python -m msm_jax.train --config=configs/sft.py:runs/msm --workdir=runs/sft
"""

from ml_collections import ConfigDict

from configs import msm


def get_config(checkpoint: str = "runs/msm") -> ConfigDict:
    config = msm.get_config(checkpoint)
    config.name = "sft"
    config.steps = 60
    config.batch_rows = 8

    config.data.sources = {"chats": {"path": "data/examples/chats.jsonl", "kind": "chats", "holdout": 0.1}}
    config.data.weights = {"chats": 1.0}
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 5
    return config
