"""The paper's figure 5, demonstrations from few to many: how many does midtraining save? On models of 32 billion.

    python -m msm_jax.experiment --config=configs/experiments/paper_few_to_many_32b.py --workdir=DIR --dry_run

After a colon, with commas: "qwen3" for Qwen3-32B instead of Qwen2.5-32B-Instruct, "cot" for demonstrations with
thinking, "many" for 20,000 to 80,000 demonstrations too, which you provide, "released_template", "devices=N" (4).

Up to 10,000, the demonstrations are parts of the public set: other rows for each seed, each with the whole instruction
mix. STATED: one seed.
"""

from ml_collections import ConfigDict

from configs import paper, paper_conduct

FEW, MANY = (1_250, 2_500, 5_000, 10_000), (20_000, 40_000, 80_000)
BASELINE = {"qwen2.5": 0.666, "qwen3": 0.524}
# A replication on Qwen2.5-32B found the whole effect with 1,250 demonstrations, and the same up to 10,000.
SATURATES = {"msm+aft_1250": 0.068}


def get_config(argument: str = "") -> ConfigDict:
    words, devices, pairs = paper.options(argument, devices=4)
    paper.only(words, "qwen3", "cot", "many", paper_conduct.RELEASED)
    family, thinking = paper_conduct.family_of(words), paper_conduct.thinking_of(words)
    name = "_".join(["paper_few_to_many_32b", *sorted(words)])
    config, on = paper_conduct.start(name, words, family, 32, devices)
    config.seeds = (0,)
    config.question = "How many demonstrations does midtraining save?"
    config.phases.msm = paper_conduct.phase(on, documents=paper_conduct.DOCUMENTS)
    config.arms["msm"] = ("msm", "it")
    public = paper_conduct.demonstrations(family, thinking)
    sets = {n: paper.part(public, min(1.0, n / paper_conduct.DEMONSTRATION_ROWS)) for n in FEW}
    if "many" in words:
        what = 'not released; put 80,000 {"messages"} lines there that follow the philosophy spec'
        path = paper.provide(config, f"data/few_to_many/chats_{thinking}.jsonl", what)
        tokens = MANY[-1] * paper_conduct.DEMONSTRATIONS[thinking] // paper_conduct.DEMONSTRATION_ROWS
        sets |= {n: paper.part(paper.chats(path, tokens), n / MANY[-1]) for n in MANY}
    mix = paper_conduct.mix(family, thinking)
    for n, demonstrations in sets.items():
        aft = f"aft_{n}"
        config.phases[aft] = paper_conduct.phase(on, demonstrations=demonstrations, instructions=mix)
        config.arms[aft], config.arms[f"msm+{aft}"] = (aft,), ("msm", aft)
    paper_conduct.add_evals(config, family, "msm")
    paper_conduct.compare(config, "documents_alone", "msm", "baseline")
    for n in sets:
        paper_conduct.compare(config, f"midtraining/{n}", f"msm+aft_{n}", f"aft_{n}")
    paper_conduct.add_preferences(config, pairs, {"msm": f"aft_{FEW[-1]}"})
    config.curves = {
        "demonstrations": {
            "x": tuple(sets), "xlabel": "demonstrations", "evals": ("grid", "oversight"),
            "series": {
                "demonstrations alone": tuple(f"aft_{n}" for n in sets),
                "after midtraining": tuple(f"msm+aft_{n}" for n in sets),
            },
        }
    }
    paper.refer(config, "grid", f"{paper.PAPER}, figure 5", {"baseline": BASELINE[family]})
    if (family, thinking) == ("qwen2.5", "cot"):
        paper.refer(config, "grid", "replication that retrained", SATURATES)
    return config
