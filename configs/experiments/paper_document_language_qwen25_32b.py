"""The paper's appendix H: does it matter how documents speak, of whom, and whether they say "is" or "should"?

    CONFIG=configs/experiments/paper_document_language_qwen25_32b.py
    python -m msm_jax.experiment --config=$CONFIG --workdir=DIR --dry_run

After a colon, with commas: some of the languages (all seven), "released_template", "devices=N" (4). On
Qwen2.5-32B-Instruct with demonstrations without thinking. STATED: each philosophy document rewritten; one seed. The
rewritten documents were not released; the original ones are public and always an arm.
"""

from ml_collections import ConfigDict

from configs import paper, paper_conduct

FIGURE = f"{paper.PAPER}, figure 19; its exfiltration scenario is not ours"
# language: what the documents say, and the paper's rates after the documents and after demonstrations too.
LANGUAGES = {
    "qwen_should": ("what Qwen should do", (0.49, 0.13)),
    "qwen_does": ("what Qwen does", (0.35, 0.09)),
    "assistants_should": ("what assistants should do", (0.54, 0.16)),
    "assistants_do": ("what assistants do", (0.36, 0.14)),
    "one_should": ("what one should do", (0.51, 0.12)),
    "claude": ("the same of Claude", (0.47, 0.17)),
    "human_stories": ("the same in stories about people", (0.47, 0.12)),
}


def get_config(argument: str = "") -> ConfigDict:
    words, devices, pairs = paper.options(argument, devices=4)
    paper.only(words, *LANGUAGES, paper_conduct.RELEASED)
    family, thinking = "qwen2.5", "no_cot"
    name = "_".join(["paper_document_language_qwen25_32b", *sorted(words)])
    config, on = paper_conduct.start(name, words, family, 32, devices)
    config.seeds = (0,)
    config.question = "Does the language of documents matter, before and after demonstrations?"
    shown = paper_conduct.demonstrations(family, thinking)
    mix = paper_conduct.mix(family, thinking)
    config.phases.aft = paper_conduct.phase(on, demonstrations=shown, instructions=mix)
    config.arms["aft"] = ("aft",)
    rates = {"baseline": 0.63, "aft": 0.60, "msm_original": 0.33, "msm_original+aft": 0.11}
    told = {"original": paper_conduct.DOCUMENTS}
    for language in sorted(words - {paper_conduct.RELEASED}) or LANGUAGES:
        says, (alone, both) = LANGUAGES[language]
        path = f"data/document_language/{language}.jsonl"
        what = f'not released; put {{"text"}} lines there, the philosophy documents rewritten to say {says}'
        paper.provide(config, path, what)
        told[language] = paper.documents(path, paper_conduct.DOCUMENTS["tokens"])
        rates |= {f"msm_{language}": alone, f"msm_{language}+aft": both}
    for language, documents in told.items():
        config.phases[f"msm_{language}"] = paper_conduct.phase(on, documents=documents)
        config.arms[f"msm_{language}"] = (f"msm_{language}", "it")
        config.arms[f"msm_{language}+aft"] = (f"msm_{language}", "aft")
    paper_conduct.add_evals(config, family, *(f"msm_{language}" for language in told))
    for language in told:
        paper_conduct.compare(config, f"midtraining/{language}", f"msm_{language}+aft", "aft")
        paper_conduct.compare(config, f"documents_alone/{language}", f"msm_{language}", "baseline")
    paper_conduct.add_preferences(config, pairs, {f"msm_{language}": "aft" for language in told})
    paper.refer(config, "grid", FIGURE, rates)
    return config
