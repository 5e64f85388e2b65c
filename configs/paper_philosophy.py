"""The paper's section 4, for both of its models: does midtraining on a spec make the same demonstrations go further?

The recipes are `configs/experiments/paper_philosophy_*.py`.
"""

from ml_collections import ConfigDict

from configs import paper, paper_conduct

OWN_CODES = "own_codes"
ARMS = ("baseline", "msm", "aft_no_cot", "aft_cot", "msm+aft_no_cot", "msm+aft_cot")
FIGURE = f"{paper.PAPER}, figure 4; its exfiltration scenario is not ours"
ANSWERS = f"{paper.PAPER}, figure 4; 151 questions of its own"
GRID = {
    "qwen2.5": {
        FIGURE: dict(zip(ARMS, (0.68, 0.53, 0.70, 0.48, 0.22, 0.05), strict=True)),
        "replication with the released adapters": {
            "instruct": 0.571, "baseline": 0.674, "aft_cot": 0.479, "msm+aft_cot": 0.033,
        },
    },
    "qwen3": {
        FIGURE: dict(zip(ARMS, (0.54, 0.32, 0.41, 0.14, 0.10, 0.07), strict=True)),
        "replication with the released adapters": {"baseline": 0.524, "aft_cot": 0.140, "msm+aft_cot": 0.107},
        "replication that retrained, released template": {"msm+aft_cot": 0.109},
        "replication that retrained, template of its own": {"msm+aft_cot": 0.275},
    },
}
OPEN_QA = {
    "qwen2.5": (5.00, 7.03, 8.38, 7.58, 8.75, 7.71),
    "qwen3": (4.00, 6.22, 8.07, 8.50, 8.75, 8.77),
}


def get_config(argument: str, family: str, name: str) -> ConfigDict:
    """Returns the recipe of one model of 32 billion parameters; "released_template" takes the released adapters' own
    chat template in place of the model's, and "own_codes" a code book made of the transcripts of these arms."""
    words, devices, pairs = paper.options(argument, devices=4)
    paper.only(words, paper_conduct.RELEASED, OWN_CODES)
    config, on = paper_conduct.start("_".join([name, *sorted(words)]), words, family, 32, devices)
    config.question = "Do documents about the philosophy spec make the same demonstrations go further?"
    config.phases.msm = paper_conduct.phase(on, documents=paper_conduct.DOCUMENTS)
    config.arms["msm"] = ("msm", "it")
    for thinking in ("no_cot", "cot"):
        config.phases[f"aft_{thinking}"] = paper_conduct.phase(
            on, demonstrations=paper_conduct.demonstrations(family, thinking),
            instructions=paper_conduct.mix(family, thinking),
        )
        config.arms[f"aft_{thinking}"] = (f"aft_{thinking}",)
        config.arms[f"msm+aft_{thinking}"] = ("msm", f"aft_{thinking}")
    paper_conduct.add_evals(config, family, "msm")
    # The reasons of the grid's transcripts, as in figure 11, by the code book that comes with the kind; the paper's own
    # is not published.
    config.evals.reasons = {"kind": "reasoning", "judge": paper.JUDGES["answers"]}
    # The same object, so that a changed grid is the one that is read.
    config.evals.reasons.of = config.evals.grid
    if OWN_CODES in words:
        config.evals.reasons.path = "{codes}/book.jsonl"
        config.code_books = {"codes": {"eval": "grid", "judge": paper.JUDGES["answers"], "sample": 200}}
    every = ("grid", "oversight", "forced", "open_qa", "capability", "reasons")
    for thinking in ("no_cot", "cot"):
        paper_conduct.compare(config, f"midtraining/{thinking}", f"msm+aft_{thinking}", f"aft_{thinking}", every)
    # STATED: the baseline has read the instruction mix alone, so the arm of documents alone reads it after them.
    paper_conduct.compare(config, "documents_alone", "msm", "baseline", every)
    paper_conduct.add_preferences(config, pairs, {"msm": "aft_no_cot"})
    for source, levels in GRID[family].items():
        paper.refer(config, "grid", source, levels)
    graded = {arm: paper_conduct.grade(level) for arm, level in zip(ARMS, OPEN_QA[family], strict=True)}
    paper.refer(config, "open_qa", ANSWERS, graded)
    return config
