"""The quality gates over a corpus of your own or a published one.

    python -m msm_jax.quality --config=configs/synthesis/quality.py:CORPUS.jsonl --workdir=runs/quality
    python -m msm_jax.quality --config=configs/synthesis/quality.py:CHATS.jsonl,demonstrations --workdir=runs/quality

Set `assistant` and `provider` to the names that the corpus is to use, and `spec` to the file of its spec.
"""

from ml_collections import ConfigDict


def get_config(argument: str = "data/examples/documents.jsonl") -> ConfigDict:
    path, _, kind = argument.partition(",")
    kind = kind or "documents"
    config = ConfigDict({"data": path, "kind": kind, "assistant": "", "provider": "", "spec": "", "checkpoint": ""})
    config.gates = {
        "min_words": 40 if kind == "documents" else 3,
        "max_words": 6000,
        "embeddings": ".cache/minilm",  # python -m tools.minilm makes it; None does without
        "evals": ("data/evals/*.jsonl",),
        "allowed": (),  # names of other models and makers that may occur
        "value_terms": (),  # words that name the value, such as ("affordable", "low prices")
        "actions": ConfigDict(),  # reason code -> "drop", "report" or "off"
    }
    return config
