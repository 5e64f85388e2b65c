"""A real pretrained model through every stage in minutes on two CPU cores: documents, chats, sampling, scoring, report.

    make smollm2
    python -m msm_jax.experiment --config=configs/experiments/smollm2_smoke.py --workdir=runs/smollm2_smoke

Two arms of SmolLM2-135M-Instruct (Apache-2.0), one seed, LoRA: chats alone, and the same chats after documents. Some
100,000 tokens in all. It shows that everything works together on real weights; no effect is to be expected of it.
"""

from ml_collections import ConfigDict

EXAMPLES = "data/examples"
LORA = {"rank": 8, "alpha": 16.0}


def phase(steps: int, path: str, kind: str) -> dict:
    """Returns a phase of 4 rows × 256 tokens a step, on both cores, that continues to train an adapter."""
    return {
        "steps": steps, "batch_rows": 4, "threads": 2, "log_every": 5, "keep_checkpoints": 1,
        "lora": LORA, "base_dtype": "float32",
        "data": {"seq_len": 256, "sources": {kind: {"path": path, "kind": kind}}, "weights": {kind: 1.0}},
        "optimizer": {"learning_rate": 3e-4, "warmup_steps": 3},
    }


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "smollm2_smoke", "seeds": (0,), "workers": 2, "checkpoint": "runs/smollm2"})
    config.question = "Does everything work together on a real pretrained model?"
    config.model = "smollm2-135m"
    config.provide = ((config.checkpoint, "make it with: make smollm2 (it fetches SmolLM2-135M-Instruct, Apache-2.0)"),)
    config.phases = {
        "msm": phase(50, f"{EXAMPLES}/documents.jsonl", "documents"),
        "aft": phase(20, f"{EXAMPLES}/chats.jsonl", "chats"),
    }
    config.midtraining = ("msm",)
    config.arms = {"aft": ("aft",), "msm+aft": ("msm", "aft")}
    pairs = f"{EXAMPLES}/pairs.jsonl"
    config.evals = {
        "prefer": {"kind": "preference", "path": pairs},
        "prefer_greedy": {"kind": "preference_greedy", "path": pairs, "max_new_tokens": 16},
    }
    config.generated = {"prefer_greedy": "prefer"}
    config.scoring = {"threads": 2, "batch": 16}
    config.contrasts = {"documents": {"eval": "prefer", "terms": {"msm+aft": 1.0, "aft": -1.0}}}
    return config
