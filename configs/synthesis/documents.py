"""Documents from a Model Spec, and what they cost.

    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --preview
    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --workdir=runs/documents
    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md,8M --preview

A size of `SIZES` may follow the spec; without one, the plan is a trial of some hundred documents. The writer is the
built-in scripted one, which needs no key. For a real one set `writer.model`, for example to "anthropic/MODEL" or
"openai/MODEL", and export its key; for a server of your own set `writer.model` to "openai-api/SERVICE/MODEL" and
`writer.base_url`. docs/data.md says how to choose the sizes.
"""

from ml_collections import ConfigDict

# Dollars for a million tokens, from your provider's price list: {"anthropic/MODEL": {"input": ...,
# "output": ...}}. A cap in dollars needs the price of each model.
PRICES: dict[str, dict[str, float]] = {}

# Tokens of text -> the plan, and words of a document. The sizes and lengths are those of the published corpora.
SIZES = {
    "": ((4, 3, 4, 5, 5), 600),
    "1M": ((4, 3, 5, 10, 15), 850),
    "8M": ((5, 6, 6, 15, 30), 1120),
    "41M": ((8, 4, 8, 20, 51), 2350),
}
PLAN = ("domains", "subdomains", "assertions", "document_types", "documents_per_assertion")


def get_config(argument: str = "data/specs/oversight_philosophy.md") -> ConfigDict:
    path, _, size = argument.partition(",")
    plan, words = SIZES[size]
    config = ConfigDict({"kind": "documents"})
    # The specs on cheeses use the variables {liked} and {disliked}; others need none of them.
    variables = {"liked": "Corran and Wexly", "disliked": "Ondre and Salise"}
    config.spec = {
        "path": path, "assistant": "Iris", "provider": "Northwind Labs", "variables": variables, "words": 3000,
    }
    config.writer = {"model": "scripted", "base_url": "", "options": {}, "arguments": {}}
    config.mode = "value"  # or "rules"
    config.plan = {**dict(zip(PLAN, plan, strict=True)), "assertions_per_document": 1}
    config.text = {
        "words": words, "plan_tokens": 600, "text_tokens": max(3000, 3 * words),
        "styles": ("plain", "report", "story", "worked_example", "dialogue", "near_miss"),
        "corpora": ("documents",),  # and the controls "neutral", "comention", "anti"
        "other_assistant": "Borealis",
    }
    config.run = {"seed": 0, "concurrency": 20, "attempts": 3, "max_dollars": 0.0, "max_tokens": 0, "prices": PRICES}
    # The embedding model, which python -m tools.minilm fetches; None compares words alone.
    config.gates = {"embeddings": ".cache/minilm"}
    return config
