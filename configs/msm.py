"""Model Spec midtraining: documents that discuss the spec, with background text replayed among them.

    python -m msm_jax.train --config=configs/msm.py:runs/pretrain --workdir=runs/msm

Model, tokenizer and chat template come from the checkpoint; the state of the optimizer is new.
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(checkpoint: str = "runs/pretrain") -> ConfigDict:
    config = pretrain.get_config()
    config.name = "msm"
    config.init = ConfigDict({"mode": "params", "checkpoint": checkpoint})
    config.preset = config.tokenizer = ""
    config.model_overrides = ConfigDict()

    config.data.sources.documents = {"path": "data/examples/documents.jsonl", "holdout": 0.1}
    config.data.weights = {"background": 0.3, "documents": 0.7}
    config.optimizer.learning_rate = 1e-3
    return config
