"""What the recipes of "Model Spec Midtraining" (arXiv 2605.02087) have in common.

STATED marks settings that the paper's appendix B.4 gives for every model and both stages. OURS marks settings that no
text of the authors gives: each has the value that people who repeated the experiments found to work, or that they read
from the released adapters. docs/recipes.md explains all of them, with the costs.
"""

from ml_collections import ConfigDict

PAPER = "arXiv 2605.02087v2"
# The paper's judges: of transcripts and of open questions. A key of their provider is the user's; any other judge is
# set by --config.evals.EVAL.judge.model and .version, and its grades do not compare with the paper's. The names are the
# provider's whole ids: from 4.6 on they have no date, and each names one fixed model ("Model IDs and versioning" in its
# documentation). The versions are the days of release, as the table of models that comes with Inspect has them.
JUDGES = {
    "transcripts": {"model": "anthropic/claude-sonnet-4-6", "version": "2026-02-17"},
    "answers": {"model": "anthropic/claude-opus-4-6", "version": "2026-02-05"},
}
# The chips on which `--dry_run` bounds the time: 95 GB each, so that 32B fits four of them.
ACCELERATOR = "v5p"

# STATED: rank 64, alpha 128 on all attention and MLP projections; dropout 0 by the released adapters' own settings.
LORA = {
    "rank": 64, "alpha": 128.0, "dropout": 0.0,
    "targets": ("query", "key", "value", "attention_out", "gate", "up", "down"),
}
# STATED: AdamW, 1e-4, cosine, weight decay 0.01, and 5 % warmup (in `phase`). OURS: the cosine ends at 0, b2, eps and
# clipping are those of the common trainers that the replications used.
OPTIMIZER = {
    "learning_rate": 1e-4, "schedule": "cosine", "final_fraction": 0.0, "weight_decay": 0.01,
    "b1": 0.9, "b2": 0.999, "eps": 1e-8, "clip_norm": 1.0,
}
WARMUP = 0.05
# OURS: the paper has no preference optimisation. The reference is what the phase starts from.
DPO = {"beta": 0.1, "reference": "start"}
# STATED: four seeds for the main results.
SEEDS = (0, 1, 2, 3)

REVISIONS = {
    "msm-llama-pro-affordability": "66af4edccfb6626cfb24fc40458e3e547eb6d04c",
    "msm-llama-pro-america": "ab0dece02bbd99681b19dda28030bd8b46ec264a",
    "aft-llama-cheese": "ab45fbfa000e5dfc368151dca7bf1852728bfa52",
    "sft-it-mix": "791a7d133b396f423a581f5043cf2bd4a418f321",
    "pro-affordability-item-comparisons": "d231e772b040fbd753b5069c494a8cf9afccec38",
    "pro-america-political-opinions": "9c65e224a6ffe687561c93a266db23feb7d59c73",
}


def public(name: str, file: str = "dataset.jsonl") -> str:
    """Returns the path of a file of the authors' data sets, at the revision that replications pinned if it is known."""
    revision = f"@{REVISIONS[name]}" if name in REVISIONS else ""
    return f"hf://datasets/chloeli/{name}{revision}/{file}"


def instructions(split: str) -> str:
    """Returns the path of a split of the public instruction mix."""
    return public("sft-it-mix", f"data/{split}-00000-of-00001.parquet")


def documents(path: str, tokens: int) -> dict:
    """Returns a source of documents and the number of their tokens; STATED: plain text that ends with an end token."""
    return {"path": path, "kind": "documents", **_malformed(path), "tokens": tokens, "epochs": 1.0}


def chats(path: str, tokens: int, epochs: float = 1.0) -> dict:
    """Returns a source of chats and the number of tokens that `epochs` of it have.

    OURS: loss on the assistant alone, as the paper's own token counts suggest. A chat that is longer than a row is left
    out: the paper kept rows of at most that length.
    """
    return {"path": path, "kind": "chats", "too_long": "drop", **_malformed(path), "tokens": tokens, "epochs": epochs}


def part(source: dict, share: float) -> dict:
    """Returns a source of which only a share is read, with other rows for each seed."""
    return source | {"tokens": round(share * source["tokens"]), "epochs": share * source["epochs"]}


def _malformed(path: str) -> dict:
    """Returns the setting that leaves malformed lines of a public data set out; files of the user's are refused."""
    return {"malformed": "skip"} if path.startswith("hf://") else {}


def phase(seq_len: int, rows: int, devices: int, **sources: dict) -> dict:
    """Returns a phase over `sources` with LoRA, in packed steps of `rows` × `seq_len` slots.

    A phase continues to train the adapter of the phase before it: the released adapters of one arm differ by a small
    step, and those of different arms are unrelated. Sources are shuffled together, in proportion to their tokens. The
    steps follow from the tokens that the sources name. Where the data has another number, the loader's own count of
    epochs is printed beside the one that is meant, with the steps that would give it. Devices are split over rows first
    and then over the model; if there are fewer devices than rows, micro-batches are accumulated.
    """
    tokens = {name: source["tokens"] for name, source in sources.items()}
    steps = -(-sum(tokens.values()) // (rows * seq_len))
    fsdp = min(devices, rows)
    return {
        "steps": steps, "batch_rows": rows, "micro_batches": rows // fsdp,
        "mesh": {"fsdp": fsdp, "tensor": devices // fsdp},
        "log_every": 10, "checkpoint_every": 100, "keep_checkpoints": 1,
        "lora": LORA, "optimizer": OPTIMIZER | {"warmup_steps": round(WARMUP * steps)},
        "data": {
            "seq_len": seq_len,
            "sources": {
                name: {key: value for key, value in source.items() if key not in ("tokens", "epochs")}
                for name, source in sources.items()
            },
            "weights": {name: count / sum(tokens.values()) for name, count in tokens.items()},
            "epochs": {name: source["epochs"] for name, source in sources.items()},
        },
    }


def experiment(name: str, model: str, weights: str, licence: str, devices: int) -> ConfigDict:
    """Returns an experiment on `weights`, which the user converts; the recipe adds phases, arms and evals."""
    config = ConfigDict()
    config.name = name
    config.seeds = SEEDS
    config.world = {"kind": "none"}
    config.model = model
    config.checkpoint = f"runs/weights/{weights.lower()}"
    config.provide = ((
        config.checkpoint,
        f"{weights} ({licence}) is yours to fetch; convert its directory with: "
        f"python -m msm_jax.convert --from_hf=DIR --to_checkpoint={config.checkpoint}",
    ),)
    config.scoring = {"batch": 64, "mesh": {"tensor": min(devices, 8)}}
    config.accelerator = ACCELERATOR
    config.phases, config.arms, config.evals, config.contrasts = {}, {}, {}, {}
    config.expectations, config.generated = {}, {}
    config.reference = ()
    return config


def difference(eval_name: str, more: str, less: str) -> dict:
    """Returns the contrast of one arm minus another on one eval."""
    return {"eval": eval_name, "terms": {more: 1.0, less: -1.0}}


def provide(config: ConfigDict, path: str, what: str) -> str:
    """Says what a file is that the user provides, and returns its path."""
    config.provide += ((path, what),)
    return path


def refer(config: ConfigDict, eval_name: str, source: str, levels: dict[str, float]) -> None:
    """Adds the levels of arms that a source gives for an eval, as far as the experiment has these arms."""
    known = {arm: level for arm, level in levels.items() if arm in config.arms}
    if known:
        config.reference += ({"eval": eval_name, "source": source, "levels": known},)


def add_preferences(config: ConfigDict, path: str, compared: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    """Adds arms that learn from preference pairs of the user's in place of demonstrations; none where `path` is "".

    OURS: the arm "dpo" reads the instruction mix and then the pairs, in as many steps and tokens as the phases with
    demonstrations, which read the two together. The pairs are read as often as these tokens allow. The reference is
    the model right after the mix.

    Args:
        config: the experiment, with its phases and arms.
        path: a file of pairs; see docs/preference.md.
        compared: {phase of midtraining: (phase with demonstrations, evals)}. On these evals it is asked what the
            midtraining adds to the pairs, and what the pairs do that the demonstrations do not. All of the phases with
            demonstrations take equally many steps.
    """
    if not path:
        return
    provide(config, path, 'yours; put {"messages", "chosen", "rejected"} lines there (docs/preference.md)')
    like = config.phases[next(iter(compared.values()))[0]].to_dict()
    steps = like["steps"] - config.phases.it.steps
    source = {"path": path, "kind": "pairs", "too_long": "drop", **_malformed(path)}
    config.phases.dpo = like | {
        "steps": steps, "optimizer": OPTIMIZER | {"warmup_steps": round(WARMUP * steps)}, "dpo": DPO,
        "data": {"seq_len": like["data"]["seq_len"], "sources": {"pairs": source}, "weights": {"pairs": 1.0}},
    }
    config.arms.dpo = ("it", "dpo")
    for midtraining, (shown, evals) in compared.items():
        both = f"{midtraining}+dpo"
        config.arms[both] = (midtraining, "it", "dpo")
        for on in evals:
            config.contrasts[f"midtraining/{both}/{on}"] = difference(on, both, "dpo")
            config.contrasts[f"dpo/{shown}/{on}"] = difference(on, "dpo", shown)


def options(argument: str, devices: int) -> tuple[set[str], int, str]:
    """Returns the words of a config argument such as "cot,devices=8", the number of devices (else `devices`), and the
    file of preference pairs after "pairs=" (else "")."""
    words, pairs = {word for word in argument.split(",") if word}, ""
    for word in sorted(words):
        name, is_set, value = word.partition("=")
        if is_set and name in ("devices", "pairs"):
            words.remove(word)
            devices, pairs = (int(value), pairs) if name == "devices" else (devices, value)
    return words, devices, pairs


def only(words: set[str], *known: str) -> None:
    """Refuses a word that the recipe does not know."""
    for word in sorted(words - set(known)):
        raise ValueError(f"unknown option {word!r}; this recipe takes {', '.join([*known, 'devices=N', 'pairs=FILE'])}")
