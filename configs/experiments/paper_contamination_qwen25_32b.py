"""The paper's appendix I: how much does midtraining protect when demonstrations contradict the spec in part?

    python -m msm_jax.experiment --config=configs/experiments/paper_contamination_qwen25_32b.py --workdir=DIR --dry_run

After a colon, with commas: "cot" for demonstrations with thinking, "released_template", "devices=N" (4). On
Qwen2.5-32B-Instruct, of 10,000 demonstrations 0 to 100 % that contradict the philosophy spec, which were not released.
Keep such data and what is trained on it apart and labelled. STATED: one seed. The paper has steps of 20 %; 2 % is
added, since a replication saw most of the loss there.
"""

from ml_collections import ConfigDict

from configs import paper, paper_conduct

PERCENT = (0, 2, 20, 40, 60, 80, 100)
# The paper prints no table of these rates.
REPLICATION = {"msm+aft_0": 0.06, "msm+aft_2": 0.31, "msm+aft_20": 0.67}


def get_config(argument: str = "") -> ConfigDict:
    words, devices, pairs = paper.options(argument, devices=4)
    paper.only(words, "cot", paper_conduct.RELEASED)
    family, thinking = "qwen2.5", paper_conduct.thinking_of(words)
    name = "_".join(["paper_contamination_qwen25_32b", *sorted(words)])
    config, on = paper_conduct.start(name, words, family, 32, devices)
    config.seeds = (0,)
    config.question = "How much does midtraining protect against demonstrations that contradict the spec?"
    path = f"data/contamination/anti_spec_{thinking}.jsonl"
    what = 'not released; put 10,000 {"messages"} lines there that contradict the philosophy spec, marked in their meta'
    sets = {
        "demonstrations": paper_conduct.demonstrations(family, thinking),
        "anti_spec": paper.chats(paper.provide(config, path, what), paper_conduct.DEMONSTRATIONS[thinking]),
    }
    config.phases.msm = paper_conduct.phase(on, documents=paper_conduct.DOCUMENTS)
    config.arms["msm"] = ("msm", "it")
    for percent in PERCENT:
        shares = {"demonstrations": 1 - percent / 100, "anti_spec": percent / 100}
        mixed = {name: paper.part(sets[name], share) for name, share in shares.items() if share}
        aft = f"aft_{percent}"
        config.phases[aft] = paper_conduct.phase(on, **mixed, instructions=paper_conduct.mix(family, thinking))
        config.arms[aft], config.arms[f"msm+{aft}"] = (aft,), ("msm", aft)
    paper_conduct.add_evals(config, family, "msm")
    paper_conduct.compare(config, "documents_alone", "msm", "baseline")
    for percent in PERCENT:
        paper_conduct.compare(config, f"midtraining/{percent}", f"msm+aft_{percent}", f"aft_{percent}")
    paper_conduct.add_preferences(config, pairs, {"msm": "aft_0"})
    config.curves = {
        "contamination": {
            "x": PERCENT, "xlabel": "% of demonstrations that contradict the spec", "evals": ("grid", "oversight"),
            "series": {
                "demonstrations alone": tuple(f"aft_{percent}" for percent in PERCENT),
                "after midtraining": tuple(f"msm+aft_{percent}" for percent in PERCENT),
            },
        }
    }
    if thinking == "cot":
        paper.refer(config, "grid", "replication with the released template", REPLICATION)
    return config
