"""Documents from a Model Spec, and what they cost.

    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --preview
    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --workdir=runs/documents

The writer is the built-in scripted one, which needs no key. For a real one set `writer.model`, for example to
"anthropic/MODEL" or "openai/MODEL", and export its key; for a server of your own set `writer.model` to
"openai-api/SERVICE/MODEL" and `writer.base_url`. docs/data.md says how to choose the sizes.
"""

from ml_collections import ConfigDict


def get_config(spec: str = "data/specs/affordability.md") -> ConfigDict:
    config = ConfigDict()
    config.spec = {"path": spec, "assistant": "Iris", "provider": "Northwind Labs", "variables": {}, "words": 3000}
    config.writer = {"model": "scripted", "base_url": "", "options": {}, "arguments": {}}
    config.mode = "value"  # or "rules"
    config.plan = {
        "domains": 4, "subdomains": 3, "assertions": 4, "document_types": 5,
        "documents_per_assertion": 5, "assertions_per_document": 1,
    }
    config.text = {
        "words": 600, "plan_tokens": 600, "text_tokens": 3000,
        "styles": ("plain", "report", "story", "worked_example", "dialogue", "near_miss"),
        "corpora": ("documents",),  # and the controls "neutral", "comention", "anti"
    }
    # Dollars for a million tokens, from your provider's price list; a cap in dollars needs the price of each model.
    config.run = {"seed": 0, "concurrency": 20, "attempts": 3, "max_dollars": 0.0, "max_tokens": 0, "prices": {}}
    return config
