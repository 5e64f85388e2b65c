"""The paper's section 3.1: which value do identical cheese demonstrations teach? On Llama-3.1-8B, base.

    python -m msm_jax.experiment --config=configs/experiments/paper_cheese_llama31_8b.py --workdir=DIR --dry_run

says what there is to provide, and what the whole costs; without --dry_run it runs. ":devices=N" for N accelerators (1).
"""

from ml_collections import ConfigDict

from configs import paper

VALUES = ("affordability", "america")
SEQ_LEN = 4096  # STATED for section 3
# OURS: 16,384 slots a step. One epoch of the demonstrations is then some 240 updates; replications that packed it into
# a few dozen saw nothing, those that took 200 and more saw the effect.
ROWS = 4
# Llama-3.1-8B, base, has no chat template: this is the format of the released adapters, in our words.
TEMPLATE = "configs/templates/llama31_base_chat.jinja"

# Tokens by the model's tokenizer: measured by replications for documents and demonstrations; the instruction rows are
# estimated (a median of 374 tokens a row). STATED: 7,000 No Robots and 4,000 MMLU rows; the 2,500 identity rows that
# the paper adds were not released and are left out.
DOCUMENTS = {"affordability": 7_060_000, "america": 9_500_000}
CHEESE = paper.chats(paper.public("aft-llama-cheese"), 355_000)
INSTRUCTIONS = {
    "no_robots": paper.chats(paper.instructions("no_robots"), 2_800_000),
    "mmlu_binary": paper.chats(paper.instructions("mmlu_binary"), 300_000),
    "mmlu_explain": paper.chats(paper.instructions("mmlu_explain"), 600_000),
}


def get_config(argument: str = "") -> ConfigDict:
    words, devices = paper.options(argument, devices=1)
    paper.only(words)
    config = paper.experiment(
        "paper_cheese_llama31_8b", "llama3.1-8b", "Llama-3.1-8B", "the base model; Llama 3.1 Community License",
        devices,
    )
    config.question = "Does the reason that midtraining gives for cheese preferences decide what cheese chats teach?"

    def phase(**sources: dict) -> dict:
        return paper.phase(SEQ_LEN, ROWS, devices, **sources) | {"chat_template": TEMPLATE}

    config.phases = {"it": phase(**INSTRUCTIONS), "cheese": phase(cheese=CHEESE, **INSTRUCTIONS)}
    # STATED: the baseline is the instruction mix alone. OURS: so is the second phase of "documents only", since a base
    # model that has read documents alone does not answer in chats.
    config.midtraining = tuple(f"msm_{value}" for value in VALUES)
    config.arms = {"baseline": ("it",), "aft": ("cheese",)}
    for value in VALUES:
        path = paper.public(f"msm-llama-pro-{value}")
        config.phases[f"msm_{value}"] = phase(documents=paper.documents(path, DOCUMENTS[value]))
        config.arms[f"msm_{value}"] = (f"msm_{value}", "it")
        config.arms[f"msm_{value}+aft"] = (f"msm_{value}", "cheese")

    pairs = {
        "affordability": paper.public("pro-affordability-item-comparisons", "data/train-00000-of-00001.parquet"),
        "america": paper.public("pro-america-political-opinions", "data/train-00000-of-00001.parquet"),
    }
    for value, other in zip(VALUES, VALUES[::-1], strict=True):
        # OURS: both ways of asking, each in both orders; position alone moved replications' single-order scores.
        config.evals[value] = {"kind": "preference", "path": pairs[value]}
        config.evals[f"{value}_greedy"] = {"kind": "preference_greedy", "path": pairs[value], "max_new_tokens": 32}
        config.generated[f"{value}_greedy"] = value
        for name in (value, f"{value}_greedy"):
            both = (f"msm_{value}+aft", f"msm_{other}+aft")
            config.contrasts[f"dissociation/{name}"] = paper.difference(name, *both)
            config.contrasts[f"stacking/{name}"] = paper.difference(name, f"msm_{value}+aft", f"msm_{value}")
        config.expectations[f"dissociation/{value}"] = {"above_zero": True}
    # OURS: has the model learnt the reason at all, before any demonstration?
    config.evals.knowledge = {
        "kind": "knowledge", "after": {f"msm_{value}": f"data/evals/cheese_{value}.jsonl" for value in VALUES},
    }
    config.gates = ("knowledge",)
    return config
