"""Questions from a spec, for the evals `open_qa` and `knowledge_recall`.

    python -m msm_jax.questions --config=configs/evals/questions.py:data/specs/oversight_philosophy.md --workdir=DIR

Set a writer of yours: --config.writer.model=anthropic/MODEL-DATE --config.writer.version=DATE.
"""

from ml_collections import ConfigDict


def get_config(spec: str) -> ConfigDict:
    return ConfigDict(
        {
            "spec": spec,
            "writer": {"model": "", "version": "", "temperature": 1.0, "max_tokens": 8192},
            "assistant": "Qwen",
            "provider": "Alibaba",
            "dimensions": (),
            "most_dimensions": 7,
            "questions": 20,
            "assertions": 20,
        }
    )
