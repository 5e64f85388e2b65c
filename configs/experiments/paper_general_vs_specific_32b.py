"""The paper's figure 8: is a general paragraph enough as a spec, in documents or in demonstrations?

    python -m msm_jax.experiment --config=configs/experiments/paper_general_vs_specific_32b.py --workdir=DIR --dry_run

After a colon, with commas: "qwen3" for Qwen3-32B instead of Qwen2.5-32B-Instruct, "cot" for demonstrations with
thinking, "released_template", "devices=N" (4). The specific spec is the philosophy spec, whose data is public; that of
the general spec was not released.
"""

from ml_collections import ConfigDict

from configs import paper, paper_conduct

NOT_RELEASED = "the authors' own was never released"
DOCUMENTS = 41_000_000  # STATED
DEMONSTRATIONS = {"cot": 7_000_000, "no_cot": 4_000_000}  # STATED
FIGURE = f"{paper.PAPER}, figures 8 and 17; its exfiltration scenario is not ours"
ARMS = (
    "aft_general", "aft_specific", "msm_general", "msm_specific", "msm_general+aft_general",
    "msm_general+aft_specific", "msm_specific+aft_specific", "msm_specific+aft_general",
)
RATES = {
    ("qwen2.5", "no_cot"): (0.72, 0.66, 0.49, 0.53, 0.41, 0.31, 0.23, 0.36),
    ("qwen2.5", "cot"): (0.70, 0.54, 0.49, 0.53, 0.43, 0.30, 0.26, 0.33),
    ("qwen3", "no_cot"): (0.55, 0.44, 0.47, 0.32, 0.27, 0.12, 0.12, 0.18),
    ("qwen3", "cot"): (0.53, 0.17, 0.47, 0.32, 0.25, 0.07, 0.09, 0.10),
}


def get_config(argument: str = "") -> ConfigDict:
    words, devices, pairs = paper.options(argument, devices=4)
    paper.only(words, "qwen3", "cot", paper_conduct.RELEASED)
    family, thinking = paper_conduct.family_of(words), paper_conduct.thinking_of(words)
    name = "_".join(["paper_general_vs_specific_32b", *sorted(words)])
    config, on = paper_conduct.start(name, words, family, 32, devices)
    config.question = "Does a general paragraph teach as much as a specific spec, as documents or as demonstrations?"
    texts, chats = "data/general/documents.jsonl", f"data/general/chats_{thinking}.jsonl"
    paper.provide(config, texts, f'{NOT_RELEASED}; put {{"text"}} lines there, 41M tokens from a general paragraph')
    paper.provide(config, chats, f'{NOT_RELEASED}; put 10,000 {{"messages"}} lines there that follow that paragraph')
    told = {"general": paper.documents(texts, DOCUMENTS), "specific": paper_conduct.DOCUMENTS}
    shown = {
        "general": paper.chats(chats, DEMONSTRATIONS[thinking]),
        "specific": paper_conduct.demonstrations(family, thinking),
    }
    for spec in told:
        config.phases[f"msm_{spec}"] = paper_conduct.phase(on, documents=told[spec])
        config.phases[f"aft_{spec}"] = paper_conduct.phase(
            on, demonstrations=shown[spec], instructions=paper_conduct.mix(family, thinking)
        )
        config.arms[f"msm_{spec}"], config.arms[f"aft_{spec}"] = (f"msm_{spec}", "it"), (f"aft_{spec}",)
    for of in told:
        for by in shown:
            config.arms[f"msm_{of}+aft_{by}"] = (f"msm_{of}", f"aft_{by}")
    paper_conduct.add_evals(config, family, *(f"msm_{spec}" for spec in told))
    for of in told:
        paper_conduct.compare(config, f"documents_alone/{of}", f"msm_{of}", "baseline")
        for by in shown:
            paper_conduct.compare(config, f"midtraining/{of}/{by}_shown", f"msm_{of}+aft_{by}", f"aft_{by}")
    paper_conduct.add_preferences(config, pairs, {f"msm_{spec}": "aft_specific" for spec in told})
    mixed, alike = "msm_general+aft_specific", "msm_specific+aft_specific"
    config.contrasts["general_told/grid"] = paper.difference("grid", mixed, alike)
    paper.refer(config, "grid", FIGURE, dict(zip(ARMS, RATES[family, thinking], strict=True)))
    return config
