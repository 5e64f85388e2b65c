"""One phase that trains a preset, for questions to the planner: my model, my chips, will it fit?

    python -m msm_jax.plan --config=configs/plan.py:qwen3-32b,seq=8192,lora=64,chips=64 --topology=v5e:8x8

Options after the preset, with their defaults: `seq`, tokens per row (4096); `lora`, rank (0 trains all weights);
`chips` (1); `tensor`, size of the tensor axis (1); `data`, size of the data axis (1; the other chips form the fsdp
axis); `rows`, rows per chip in a micro-batch (1); `micro`, number of micro-batches (1); `remat` (full); `dpo`, the
reference of a phase on pairs, "start" or "base" (none: a phase on documents). The config is an experiment of one arm,
so it also runs if its checkpoint and data exist.
"""

from ml_collections import ConfigDict

DEFAULTS = {
    "seq": 4096, "lora": 0, "chips": 1, "tensor": 1, "data": 1, "rows": 1, "micro": 1, "remat": "full", "dpo": "",
}


def options(argument: str) -> tuple[str, dict]:
    """Returns the preset, and the options with their defaults."""
    preset, *words = argument.split(",")
    found = dict(DEFAULTS)
    for word in words:
        key, _, value = word.partition("=")
        if key not in DEFAULTS:
            raise ValueError(f"unknown option {key!r}; there are {', '.join(DEFAULTS)}")
        found[key] = int(value) if isinstance(DEFAULTS[key], int) else value
    return preset, found


def get_config(argument: str = "smollm2-135m") -> ConfigDict:
    preset, o = options(argument)
    ways = o["chips"] // o["tensor"]
    config = ConfigDict({"name": f"plan_{preset}", "seeds": (0,), "model": preset, "world": {"kind": "none"}})
    config.checkpoint = f"runs/weights/{preset}"
    config.phases = {
        "train": {
            "steps": 1000,
            "batch_rows": o["rows"] * o["micro"] * ways,
            "micro_batches": o["micro"],
            "mesh": {"data": o["data"], "fsdp": ways // o["data"], "tensor": o["tensor"]},
            "model_overrides": {"remat": o["remat"]},
            "lora": {"rank": o["lora"], "alpha": 2.0 * o["lora"]} if o["lora"] else None,
            "optimizer": {"learning_rate": 1e-4 if o["lora"] else 1e-5, "warmup_steps": 50},
            "data": {
                "seq_len": o["seq"],
                "sources": {"documents": {"path": "data/examples/documents.jsonl"}},
                "weights": {"documents": 1.0},
            },
        }
    }
    if o["dpo"]:
        config.phases.train.dpo = {"reference": o["dpo"]}
        config.phases.train.data.sources = {"pairs": {"path": "data/examples/preferences.jsonl", "kind": "pairs"}}
        config.phases.train.data.weights = {"pairs": 1.0}
    config.arms = {"train": ("train",)}
    config.evals = {}
    return config
