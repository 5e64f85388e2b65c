"""The paper's section 3.1: which value do identical cheese demonstrations teach? On Llama-3.1-8B, base.

    python -m msm_jax.experiment --config=configs/experiments/paper_cheese_llama31_8b.py --workdir=DIR --dry_run

says what there is to provide, and what the whole costs; without --dry_run it runs. ":devices=N" for N accelerators (1).
"""

from ml_collections import ConfigDict

from configs import paper, paper_values

VALUES = ("affordability", "america")
# Tokens by the model's tokenizer, measured by replications.
DOCUMENTS = {"affordability": 7_060_000, "america": 9_500_000}
PAIRS = {
    "affordability": paper.public("pro-affordability-item-comparisons", "data/train-00000-of-00001.parquet"),
    "america": paper.public("pro-america-political-opinions", "data/train-00000-of-00001.parquet"),
}
# Rates of the paper's figure 2: affordability, America.
FIGURE = f"{paper.PAPER}, figure 2; its scoring is not published"
RATES = {
    "baseline": (0.23, 0.38), "aft": (0.32, 0.36),
    "msm_affordability": (0.38, 0.36), "msm_affordability+aft": (0.48, 0.38),
    "msm_america": (0.28, 0.52), "msm_america+aft": (0.29, 0.55),
}
NEVER = (
    "The paper finds it. Replications that trained Llama-3.1-8B again never saw affordability install, so that a "
    "failure here agrees with them."
)


def get_config(argument: str = "") -> ConfigDict:
    words, devices, preferences = paper.options(argument, devices=1)
    paper.only(words)
    config, devices = paper_values.start("paper_cheese_llama31_8b", devices)
    config.question = "Does the reason that midtraining gives for cheese preferences decide what cheese chats teach?"
    config.phases.aft = paper_values.phase(devices, cheese=paper_values.CHEESE, **paper_values.INSTRUCTIONS)
    config.arms["aft"] = ("aft",)
    for value in VALUES:
        documents = paper.documents(paper.public(f"msm-llama-pro-{value}"), DOCUMENTS[value])
        paper_values.add_value(config, devices, value, documents, PAIRS[value], "aft")
    paper_values.add_preferences(config, preferences, dict.fromkeys(VALUES, "aft"))
    for value, other in zip(VALUES, VALUES[::-1], strict=True):
        for name in (value, f"{value}_greedy"):
            both = (f"msm_{value}+aft", f"msm_{other}+aft")
            config.contrasts[f"dissociation/{name}"] = paper.difference(name, *both)
        rates = {arm: levels[VALUES.index(value)] for arm, levels in RATES.items()}
        paper.refer(config, f"{value}_greedy", FIGURE, rates)
    config.expectations = {
        "dissociation/affordability": {"above_zero": True, "sentence": NEVER},
        "dissociation/america": {"above_zero": True, "sentence": "The paper and replications find it."},
    }
    # OURS: has the model learnt the reason at all, before any demonstration?
    after = {f"msm_{value}": f"data/evals/cheese_{value}.jsonl" for value in VALUES}
    config.evals.knowledge = {"kind": "knowledge", "after": after}
    config.gates = ("knowledge",)
    return config
