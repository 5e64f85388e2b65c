"""Documents that SmolLM2-135M-Instruct writes: what a writer that is too small gives, and how it is shown.

    make smollm2
    make inspect
    .venv-inspect/bin/python -m msm_jax.generate --config=configs/synthesis/smollm2.py --workdir=runs/smollm2_documents

The scripted writer plans, since so small a model writes no lists of JSON. It hardly ever closes a tag either, so that
most of its texts, or all of them, are dropped; quality.html in the workdir shows what it wrote. Where none can be used,
the command ends with status 1 and names that page.
"""

from ml_collections import ConfigDict

from configs.synthesis import documents


def get_config(spec: str = "data/specs/affordability.md") -> ConfigDict:
    config = documents.get_config(spec)
    config.writer = {"model": "checkpoint:runs/smollm2", "options": {"temperature": 0.7}}
    config.planner = {"model": "scripted"}
    config.plan = {"domains": 1, "subdomains": 2, "assertions": 2, "document_types": 2, "documents_per_assertion": 2}
    config.text = {"words": 60, "plan_tokens": 0, "text_tokens": 200, "styles": ("plain",)}
    config.run = {"seed": 0, "concurrency": 8, "attempts": 2}
    config.gates = {"embeddings": None}
    return config
