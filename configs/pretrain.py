"""Pretraining from scratch on plain text, the files of data/examples.

    python -m msm_jax.train --config=configs/pretrain.py:TOKENIZER --workdir=runs/pretrain

TOKENIZER is the directory of a trained SentencePiece model; see the README.
"""

from ml_collections import ConfigDict


def get_config(tokenizer: str = "runs/tokenizer") -> ConfigDict:
    config = ConfigDict()
    config.name = "pretrain"
    config.seed = 0
    config.steps = 200
    config.batch_rows = 16
    config.micro_batches = 1  # cuts the batch for accumulation; changes memory, not the result
    config.log_every = 10
    config.eval_every = 50  # held-out loss per source
    config.eval_batches = 4
    config.checkpoint_every = 100
    config.checkpoint_minutes = 0.0  # a checkpoint when so many minutes have passed since the last one
    config.keep_checkpoints = 2  # the newest of these stay
    config.keep_every = 0  # checkpoints every so many steps that stay for good
    config.trace_steps = ()  # (first, last): a trace for XProf of these steps
    config.threads = 0  # 0: all cores; results repeat bit for bit on equal thread counts

    config.preset = "mini-0.3m"
    config.model_overrides = ConfigDict({"compute_dtype": "float32", "remat": "none"})
    config.tokenizer = tokenizer
    config.chat_template = ""  # a Jinja file; empty: the built-in one
    config.init = ConfigDict({"mode": "scratch", "checkpoint": ""})
    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "tensor": 1})

    config.data = ConfigDict()
    config.data.seq_len = 128
    config.data.sources = {"background": {"path": "data/examples/background.jsonl", "holdout": 0.1}}
    config.data.weights = {"background": 1.0}
    config.data.stages = ()  # ((step, {"background": 0.5, ...}), ...): other weights from that step on

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.optimizer.final_fraction = 0.1
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    return config
