"""A short training from scratch on what `make generate-demo` has generated: documents, and chats at a loss on replies.

    python -m msm_jax.show_batch --config=configs/generate_demo.py:DIR
    python -m msm_jax.train --config=configs/generate_demo.py:DIR --workdir=DIR/run

DIR holds documents/, demonstrations/ and tokenizer/. The texts come from a grammar: the run shows that they train as
they are, and a model of this size learns no value from them.
"""

from ml_collections import ConfigDict

from configs import pretrain

CHATS = "demonstrations_no_thinking.jsonl"


def get_config(directory: str = "runs/generate_demo") -> ConfigDict:
    config = pretrain.get_config(f"{directory}/tokenizer")
    config.name = "generate_demo"
    config.steps = 60
    config.batch_rows = 8
    config.data.seq_len = 256
    config.data.sources = {
        "documents": {"path": f"{directory}/documents/documents.jsonl", "holdout": 0.1},
        "chats": {"path": f"{directory}/demonstrations/{CHATS}", "kind": "chats", "holdout": 0.1},
    }
    config.data.weights = {"documents": 0.7, "chats": 0.3}
    return config
