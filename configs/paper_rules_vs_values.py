"""The paper's section 5, "spec science": rules alone, rules with values, rules with subrules, as documents and as
demonstrations, all nine pairings.

The recipes are `configs/experiments/paper_rules_vs_values_*.py`. The corpora were never released: they are yours to
provide, under `data/rules_vs_values/`. The evals are those of configs/paper_philosophy.py, OURS for the same reason.
"""

from ml_collections import ConfigDict

from configs import paper, paper_philosophy

SPECS = {
    "rules": "five rules and nothing else",
    "value_aug": "the same rules, each explained by the values behind it",
    "rules_aug": "the same rules, each spelt out into subrules",
}
DOCUMENTS = 27_000_000  # STATED per spec
DEMONSTRATIONS = {"cot": 7_000_000, "no_cot": 5_000_000}  # STATED per spec
NOT_RELEASED = "the authors' own was never released"
MODELS = {
    "qwen2.5": {"weights": "Qwen2.5-{size}B-Instruct", "no_thinking": "train_clean"},
    "qwen3": {"weights": "Qwen3-{size}B", "no_thinking": "train_clean_nothink"},
}


def get_config(argument: str, size: int, devices: int) -> ConfigDict:
    """Returns the recipe for `size` billion parameters: "qwen3" replaces Qwen2.5, "cot" adds thinking."""
    words, devices = paper.options(argument, devices)
    paper.only(words, "qwen3", "cot")
    family = "qwen3" if "qwen3" in words else "qwen2.5"
    thinking = "cot" if "cot" in words else "no_cot"
    name = "_".join(["paper_rules_vs_values", f"{size}b", *sorted(words)])
    weights = MODELS[family]["weights"].format(size=size)
    config = paper.experiment(name, f"{family}-{size}b", weights, "Apache-2.0", devices)
    config.question = "Which spec teaches best as documents, and which as demonstrations: rules, values or subrules?"

    def phase(**sources: dict) -> dict:
        return paper.phase(paper_philosophy.SEQ_LEN, paper_philosophy.ROWS, devices, **sources)

    split = "train_clean" if thinking == "cot" else MODELS[family]["no_thinking"]
    mix = paper_philosophy.instructions(split)
    config.phases = {"it": phase(instructions=paper_philosophy.instructions("train_clean"))}
    config.arms = {"instruct": (), "baseline": ("it",)}
    for spec, what in SPECS.items():
        texts = f"data/rules_vs_values/{spec}/documents.jsonl"
        demonstrations = f"data/rules_vs_values/{spec}/chats_{thinking}.jsonl"
        config.phases[f"msm_{spec}"] = phase(documents=paper.documents(texts, DOCUMENTS))
        config.phases[f"aft_{spec}"] = phase(
            demonstrations=paper.chats(demonstrations, DEMONSTRATIONS[thinking]), instructions=mix
        )
        config.arms[f"msm_{spec}"] = (f"msm_{spec}",)
        config.arms[f"aft_{spec}"] = (f"aft_{spec}",)
        config.provide += (
            (texts, f'{NOT_RELEASED}; put {{"text"}} lines there, about 27M tokens that discuss {what}'),
            (demonstrations, f'{NOT_RELEASED}; put {{"messages"}} lines there, about 10,000 that follow {what}'),
        )
    for told in SPECS:
        for shown in SPECS:
            config.arms[f"msm_{told}+aft_{shown}"] = (f"msm_{told}", f"aft_{shown}")
    paper_philosophy.add_evals(config, *(f"msm_{spec}" for spec in SPECS))

    for spec in SPECS:
        both = (f"msm_{spec}+aft_{spec}", f"aft_{spec}")
        config.contrasts[f"midtraining/{spec}"] = paper.difference("oversight", *both)
    for shown in SPECS:
        both = (f"msm_value_aug+aft_{shown}", f"msm_rules+aft_{shown}")
        config.contrasts[f"values_told/{shown}_shown"] = paper.difference("oversight", *both)
    # The paper's best cell beside the two that are of one kind.
    config.contrasts["mixed/value_aug"] = paper.difference(
        "oversight", "msm_value_aug+aft_rules_aug", "msm_value_aug+aft_value_aug"
    )
    config.contrasts["mixed/rules_aug"] = paper.difference(
        "oversight", "msm_value_aug+aft_rules_aug", "msm_rules_aug+aft_rules_aug"
    )
    return config
