"""The paper's section 3.2: six further values, each from demonstrations about one kind of thing. On Llama-3.1-8B, base.

    python -m msm_jax.experiment --config=configs/experiments/paper_six_values_llama31_8b.py --workdir=DIR --dry_run

After a colon, with commas: some of the values (all six), "devices=N" for N accelerators (1). The data was not released,
except for the cheese demonstrations; the dry run says what goes where.
"""

from ml_collections import ConfigDict

from configs import paper, paper_values

# value: what the demonstrations are about, and the paper's rates (baseline, documents alone, demonstrations, both).
VALUES = {
    "environment": ("cheese", (0.71, 0.76, 0.74, 0.81)),
    "novelty": ("sweeteners", (0.41, 0.61, 0.49, 0.69)),
    "tradition": ("condiments", (0.61, 0.69, 0.75, 0.81)),
    "simplicity": ("sauce", (0.46, 0.51, 0.47, 0.58)),
    "difficulty": ("bread", (0.71, 0.85, 0.81, 0.91)),
    "individualism": ("music", (0.60, 0.68, 0.62, 0.72)),
}
FIGURE = f"{paper.PAPER}, figure 3; its scoring is not published"
DOCUMENTS, DEMONSTRATIONS = 8_000_000, 355_000  # STATED: about 8M a value; OURS: as many as about cheese
NOT_RELEASED = "the authors' own was not released"


def get_config(argument: str = "") -> ConfigDict:
    words, devices, preferences = paper.options(argument, devices=1)
    paper.only(words, *VALUES)
    config, devices = paper_values.start("_".join(["paper_six_values_llama31_8b", *sorted(words)]), devices)
    config.question = "Which further values do documents make demonstrations of preferences teach?"
    for value in sorted(words) or VALUES:
        thing, rates = VALUES[value]
        texts = f"data/six_values/{value}/documents.jsonl"
        pairs = f"data/six_values/{value}/pairs.jsonl"
        what = f'{NOT_RELEASED}; put {{"text"}} lines there, 8M tokens that explain likes by {value}'
        paper.provide(config, texts, what)
        paper.provide(
            config, pairs, f'{NOT_RELEASED}; put 300 to 400 {{"question", "options", "favoured"}} lines there, about '
            f"other things than {thing}, favouring {value}"
        )
        shown = f"aft_{thing}"
        chats = paper_values.CHEESE
        if thing != "cheese":
            path = f"data/six_values/{thing}/chats.jsonl"
            what = f'{NOT_RELEASED}; put {{"messages"}} lines there, about 5,000 that like some {thing}, with no reason'
            paper.provide(config, path, what)
            chats = paper.chats(path, DEMONSTRATIONS)
        config.phases[shown] = paper_values.phase(devices, demonstrations=chats, **paper_values.INSTRUCTIONS)
        config.arms[shown] = (shown,)
        paper_values.add_value(config, devices, value, paper.documents(texts, DOCUMENTS), pairs, shown)
        arms = ("baseline", f"msm_{value}", shown, f"msm_{value}+aft")
        paper.refer(config, f"{value}_greedy", FIGURE, dict(zip(arms, rates, strict=True)))
    taught = {value: f"aft_{VALUES[value][0]}" for value in sorted(words) or VALUES}
    paper_values.add_preferences(config, preferences, taught)
    return config
