"""From a Model Spec to a report in one command: documents, demonstrations, midtraining, fine-tuning, evals.

    make smollm2
    make inspect
    .venv-inspect/bin/python -m msm_jax.experiment --config=configs/experiments/from_spec.py --workdir=runs/from_spec

Two arms of SmolLM2-135M-Instruct (Apache-2.0) with few steps: demonstrations alone, and the same after documents. The
writer is the built-in scripted one: it shows that all parts work together, and no effect is to be expected of it. For
a real writer change WRITER, and export its key; run again, it pays for nothing twice.
"""

from ml_collections import ConfigDict

WRITER = {"model": "scripted"}


def phase(steps: int, path: str, kind: str) -> dict:
    """Returns a phase of 4 rows × 256 tokens a step that continues to train an adapter."""
    return {
        "steps": steps, "batch_rows": 4, "threads": 2, "log_every": 5, "keep_checkpoints": 1,
        "lora": {"rank": 8, "alpha": 16.0}, "base_dtype": "float32",
        "data": {"seq_len": 256, "sources": {kind: {"path": path, "kind": kind}}, "weights": {kind: 1.0}},
        "optimizer": {"learning_rate": 3e-4, "warmup_steps": 3},
    }


def get_config(spec: str = "data/specs/oversight_philosophy.md") -> ConfigDict:
    config = ConfigDict({"name": "from_spec", "seeds": (0,), "workers": 2, "checkpoint": "runs/smollm2"})
    config.question = "Do documents from the spec change what demonstrations from it teach?"
    config.model = "smollm2-135m"
    config.provide = ((config.checkpoint, "make it with: make smollm2 (it fetches SmolLM2-135M-Instruct, Apache-2.0)"),)
    who = {"path": spec, "assistant": "Iris", "provider": "Northwind Labs"}
    both = {"spec": who, "writer": WRITER, "gates": {"embeddings": None}}
    plan = {"domains": 3, "subdomains": 2, "assertions": 3, "documents_per_assertion": 4}
    text = {"words": 200, "text_tokens": 1000, "styles": ("plain", "story", "worked_example")}
    config.corpora = {
        "texts": {"kind": "synthesis", "documents": {**both, "plan": plan, "text": text}},
        "talks": {"kind": "synthesis", "demonstrations": {**both, "plan": {"samples": 40}, "reply": {"words": 100}}},
    }
    config.phases = {
        "msm": phase(20, "{texts}/documents.jsonl", "documents"),
        "aft": phase(10, "{talks}/demonstrations_no_thinking.jsonl", "chats"),
    }
    config.midtraining = ("msm",)
    config.arms = {"aft": ("aft",), "msm+aft": ("msm", "aft")}
    config.evals = {"oversight": {"kind": "preference", "path": "data/evals/oversight_pairs.jsonl"}}
    config.scoring = {"threads": 2, "batch": 16}
    config.contrasts = {"documents": {"eval": "oversight", "terms": {"msm+aft": 1.0, "aft": -1.0}}}
    return config
