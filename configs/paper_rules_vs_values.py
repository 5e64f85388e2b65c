"""The paper's section 5, "spec science": rules alone, rules with values, rules with subrules, as documents and as
demonstrations, all nine pairings.

The recipes are `configs/experiments/paper_rules_vs_values_*.py`. The corpora were never released: they are yours to
provide, under `data/rules_vs_values/`.
"""

from ml_collections import ConfigDict

from configs import paper, paper_conduct

SPECS = {
    "rules": "five rules and nothing else",
    "value_aug": "the same rules, each explained by the values behind it",
    "rules_aug": "the same rules, each spelt out into subrules",
}
DOCUMENTS = 27_000_000  # STATED per spec
DEMONSTRATIONS = {"cot": 7_000_000, "no_cot": 5_000_000}  # STATED per spec
NOT_RELEASED = "the authors' own was never released"
FIGURE = f"{paper.PAPER}, figures 7 and 14; its exfiltration scenario is not ours"
# Rates of misalignment without and with thinking; one number where no demonstrations are read. The arms are those of
# the recipe, with the specs as R (rules), V (value_aug) and P (rules_aug): the paper's R, V+ and R+.
RATES = {
    "qwen2.5-32b": """baseline .68; aft_R .69 .60; aft_V .68 .50; aft_P .66 .51; msm_R .65; msm_V .46; msm_P .56;
        msm_R+aft_R .55 .40; msm_V+aft_V .24 .16; msm_P+aft_P .39 .24; msm_R+aft_V .43 .32; msm_R+aft_P .37 .18;
        msm_V+aft_R .36 .25; msm_V+aft_P .19 .11; msm_P+aft_R .50 .34; msm_P+aft_V .41 .30""",
    "qwen3-32b": """baseline .52; aft_R .43 .26; aft_V .44 .20; aft_P .37 .14; msm_R .31; msm_V .22; msm_P .27;
        msm_R+aft_R .17 .15; msm_V+aft_V .11 .09; msm_P+aft_P .11 .06; msm_R+aft_V .12 .09; msm_R+aft_P .08 .04;
        msm_V+aft_R .12 .12; msm_V+aft_P .10 .06; msm_P+aft_R .16 .11; msm_P+aft_V .13 .07""",
    "qwen2.5-14b": """baseline .51; aft_R .37 .45; aft_V .34 .34; aft_P .28 .27; msm_R .46; msm_V .40; msm_P .40;
        msm_R+aft_R .35 .35; msm_V+aft_V .21 .22; msm_P+aft_P .26 .26; msm_R+aft_V .32 .31; msm_R+aft_P .24 .18;
        msm_V+aft_R .28 .26; msm_V+aft_P .17 .14; msm_P+aft_R .34 .36; msm_P+aft_V .29 .32""",
    "qwen3-14b": """baseline .50; aft_R .53 .52; aft_V .53 .42; aft_P .53 .29; msm_R .38; msm_V .26; msm_P .32;
        msm_R+aft_R .28 .30; msm_V+aft_V .10 .12; msm_P+aft_P .14 .12; msm_R+aft_V .20 .18; msm_R+aft_P .17 .10;
        msm_V+aft_R .16 .20; msm_V+aft_P .07 .07; msm_P+aft_R .21 .22; msm_P+aft_V .16 .14""",
}


def rates(model: str, thinking: str) -> dict[str, float]:
    """Returns the paper's rates of a model by arm, for demonstrations with or without thinking."""
    found = {}
    for entry in RATES[model].split(";"):
        arm, *values = entry.split()
        for letter, spec in zip("RVP", SPECS, strict=True):
            arm = arm.replace(f"_{letter}", f"_{spec}")
        found[arm] = float(values[-1] if thinking == "cot" else values[0])
    return found


def get_config(argument: str, size: int, devices: int) -> ConfigDict:
    """Returns the recipe for `size` billion parameters: "qwen3" replaces Qwen2.5, "cot" adds thinking."""
    words, devices, pairs = paper.options(argument, devices)
    paper.only(words, "qwen3", "cot", paper_conduct.RELEASED)
    family, thinking = paper_conduct.family_of(words), paper_conduct.thinking_of(words)
    name = "_".join(["paper_rules_vs_values", f"{size}b", *sorted(words)])
    config, on = paper_conduct.start(name, words, family, size, devices)
    config.question = "Which spec teaches best as documents, and which as demonstrations: rules, values or subrules?"
    mix = paper_conduct.mix(family, thinking)
    for spec, what in SPECS.items():
        texts = f"data/rules_vs_values/{spec}/documents.jsonl"
        demonstrations = f"data/rules_vs_values/{spec}/chats_{thinking}.jsonl"
        paper.provide(
            config, texts, f'{NOT_RELEASED}; put {{"text"}} lines there, about 27M tokens that discuss {what}'
        )
        paper.provide(
            config, demonstrations, f'{NOT_RELEASED}; put {{"messages"}} lines there, about 10,000 that follow {what}'
        )
        config.phases[f"msm_{spec}"] = paper_conduct.phase(on, documents=paper.documents(texts, DOCUMENTS))
        config.phases[f"aft_{spec}"] = paper_conduct.phase(
            on, demonstrations=paper.chats(demonstrations, DEMONSTRATIONS[thinking]), instructions=mix
        )
        config.arms[f"msm_{spec}"] = (f"msm_{spec}", "it")
        config.arms[f"aft_{spec}"] = (f"aft_{spec}",)
    for told in SPECS:
        for shown in SPECS:
            config.arms[f"msm_{told}+aft_{shown}"] = (f"msm_{told}", f"aft_{shown}")
    paper_conduct.add_evals(config, family, *(f"msm_{spec}" for spec in SPECS))

    for spec in SPECS:
        for shown in SPECS:
            evals = ("grid", "oversight") if shown == spec else ("grid",)
            paper_conduct.compare(
                config, f"midtraining/{spec}/{shown}_shown", f"msm_{spec}+aft_{shown}", f"aft_{shown}", evals
            )
        paper_conduct.compare(config, f"documents_alone/{spec}", f"msm_{spec}", "baseline")
    for shown in SPECS:
        both = (f"msm_value_aug+aft_{shown}", f"msm_rules+aft_{shown}")
        paper_conduct.compare(config, f"values_told/{shown}_shown", *both)
    # The paper's best cell beside the two that are of one kind.
    for other in ("msm_value_aug+aft_value_aug", "msm_rules_aug+aft_rules_aug"):
        paper_conduct.compare(config, f"mixed/{other.partition('+aft_')[2]}", "msm_value_aug+aft_rules_aug", other)
    paper_conduct.add_preferences(config, pairs, {f"msm_{spec}": f"aft_{spec}" for spec in SPECS})
    paper.refer(config, "grid", FIGURE, rates(config.model, thinking))
    return config
