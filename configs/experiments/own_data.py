"""Your documents, chats and preference pairs: does midtraining on the documents change what the chats teach?

    python -m msm_jax.experiment --config=configs/experiments/own_data.py --workdir=runs/own_data
    python -m msm_jax.experiment --config=configs/experiments/own_data.py:CHECKPOINT --workdir=runs/own_data

The first form trains a preset from scratch on BACKGROUND text, the second starts from a checkpoint directory.
"""

from ml_collections import ConfigDict

BACKGROUND = "data/examples/background.jsonl"  # {"text"}: general text, to start from scratch and to replay
DOCUMENTS = "data/examples/documents.jsonl"  # {"text"}: documents that discuss your Model Spec
CHATS = "data/examples/chats.jsonl"  # {"messages": [{"role", "content"}]}: your demonstrations
PAIRS = "data/examples/pairs.jsonl"  # {"question", "options", "favoured"}: what the spec should decide


def phase(steps: int, learning_rate: float, weights: dict[str, float]) -> dict:
    """Returns a phase that reads the sources named in `weights` in those proportions."""
    sources = {
        "background": {"path": BACKGROUND, "kind": "documents"},
        "documents": {"path": DOCUMENTS, "kind": "documents"},
        "chats": {"path": CHATS, "kind": "chats"},
    }
    return {
        "steps": steps,
        "batch_rows": 4,
        "data": {"seq_len": 256, "sources": {name: sources[name] for name in weights}, "weights": weights},
        "optimizer": {"learning_rate": learning_rate, "warmup_steps": steps // 20},
        "threads": 1,
    }


def get_config(checkpoint: str = "") -> ConfigDict:
    config = ConfigDict({"name": "own_data", "seeds": (0, 1, 2), "checkpoint": checkpoint})
    config.question = "Do documents about the spec change what identical chats teach?"
    config.phases = {
        "msm": phase(100, 1e-3, {"documents": 0.7, "background": 0.3}),
        "aft": phase(40, 5e-4, {"chats": 1.0}),
    }
    config.midtraining = ("msm",)
    config.shared = start = () if checkpoint else ("pretrain",)
    if not checkpoint:
        config.phases.pretrain = phase(100, 2e-3, {"background": 1.0}) | {"preset": "mini-0.3m"}
        config.tokenizer = {"vocab_size": 1024, "train_on": (BACKGROUND, DOCUMENTS, CHATS)}
    arms = {"base": (), "aft": ("aft",), "msm": ("msm",), "msm+aft": ("msm", "aft")}
    config.arms = {name: start + chain for name, chain in arms.items()}
    config.evals = {"prefer": {"kind": "preference", "path": PAIRS}}
    config.contrasts = {"documents": {"eval": "prefer", "terms": {"msm+aft": 1.0, "aft": -1.0}}}
    return config
