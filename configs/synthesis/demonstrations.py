"""Demonstrations from a Model Spec: conversations that a judge passes, with and without thinking.

    python -m msm_jax.generate --config=configs/synthesis/demonstrations.py:SPEC.md --preview
    python -m msm_jax.generate --config=configs/synthesis/demonstrations.py:SPEC.md --workdir=runs/demonstrations

The writer is the built-in scripted one, which needs no key; docs/data.md says how to name another, and how to choose
the sizes.
"""

from ml_collections import ConfigDict


def get_config(spec: str = "data/specs/oversight_philosophy.md") -> ConfigDict:
    config = ConfigDict()
    config.kind = "demonstrations"
    config.spec = {"path": spec, "assistant": "Iris", "provider": "Northwind Labs", "variables": {}, "words": 3000}
    config.writer = {"model": "scripted", "base_url": "", "options": {}, "arguments": {}}
    # Who judges; the writer itself where the model is the same.
    config.judge = {"model": "scripted", "base_url": "", "options": {}, "arguments": {}}
    config.plan = {
        "samples": 200, "turns": 1, "questions_per_domain": 20, "questions_per_call": 20, "domains_per_call": 20,
        "most_rounds": 12, "avoid": (), "embeddings": ".cache/minilm", "cosine": 0.91,
    }
    # Styles: "value", "rule", and "opaque" (with reasoning_tokens = 0), which states a preference and no reason.
    config.reply = {"style": "value", "words": 300, "reasoning_tokens": 1024, "text_tokens": 1536}
    config.judging = {"votes": 3, "criteria": ()}
    config.identity = {"samples": 20, "abilities": ("answering questions", "revising texts", "explaining")}
    # Dollars for a million tokens, from your provider's price list; a cap in dollars needs the price of each model.
    config.run = {"seed": 0, "concurrency": 20, "attempts": 3, "max_dollars": 0.0, "max_tokens": 0, "prices": {}}
    # The embedding model, which python -m tools.minilm fetches; None compares words alone.
    config.gates = {"embeddings": ".cache/minilm"}
    return config
