"""Does identical fine-tuning generalise to different values, depending on the midtraining? In the built-in small world.

    python -m msm_jax.experiment --config=configs/experiments/cheese_mini.py --workdir=runs/cheese_mini
    python -m msm_jax.experiment --config=configs/experiments/cheese_mini.py:full --workdir=runs/cheese_full

An assistant's cheese preferences fit two values, affordability and tradition. Midtraining documents explain them by one
value or the other and never name another domain; the demonstrations of fine-tuning are the same cheese choices without
a reason. The evals ask about ten other domains. ":full" adds the control arms. ":tiny" runs every part in two minutes
and is too small to show an effect.
"""

from ml_collections import ConfigDict

VALUES = ("affordability", "tradition")
MSM_STEPS, SFT_STEPS = 900, 20
# The dose of midtraining: the share of rows that hold documents, and the learning rate. Of the low doses that were
# tried, this one left the demonstrations the most room on worlds 5 and 6.
MSM_DOSE, LOW_MSM_DOSE = (0.02, 2e-2), (0.15, 2e-4)
TEXTS = {"path": "{world}/pretrain/texts.jsonl", "kind": "documents"}
CHATS = {"path": "{world}/pretrain/chats.jsonl", "kind": "chats"}


def phase(
    steps: int, learning_rate: float, warmup: int, sources: dict, weights: dict,
    eps: float = 1e-8, weight_decay: float = 0.1, **more: object,
) -> dict:
    """Returns a phase of 8 rows × 128 tokens a step, on one core, unless `more` says otherwise."""
    return {
        "steps": steps, "batch_rows": 8, "threads": 1, "log_every": 50,
        "data": {"seq_len": 128, "sources": sources, "weights": weights},
        "optimizer": {
            "learning_rate": learning_rate, "warmup_steps": warmup, "eps": eps, "weight_decay": weight_decay,
        },
    } | more


def pretrain(steps: int) -> dict:
    """Returns the pretraining on texts about items and people and on chats; its batches are small for many updates.

    Because of the weight decay, the model learns what people value in place of a list of their choices.
    """
    return phase(
        steps, 2e-3, 50, {"texts": TEXTS, "chats": CHATS}, {"texts": 0.5, "chats": 0.5},
        weight_decay=0.5, batch_rows=4, preset="mini-0.3m",
    )


def msm(documents: str, share: float, learning_rate: float) -> dict:
    """Returns midtraining in which `share` of the rows are documents and the others are replayed pretraining text.

    The settings were found by trial (docs/small_world.md). With 2 %, 18,400 tokens of documents, the model reads as
    much about the assistant as about one person in pretraining, and the assistant then chooses by its value, like them.
    With 15 %, the model learned the documents without this effect on some worlds.

    With a large epsilon, the size of AdamW's step follows the size of the gradient, as in SGD with momentum. With the
    usual epsilon, every weight moves by about the learning rate, and the model may learn the documents separately from
    what it knows about people.
    """
    sources = {"documents": {"path": f"{{world}}/documents/{documents}.jsonl"}, "texts": TEXTS, "chats": CHATS}
    weights = {"documents": share, "texts": 0.4 * (1 - share), "chats": 0.6 * (1 - share)}
    return phase(MSM_STEPS, learning_rate, 20, sources, weights, eps=1e-2)


def sft(steps: int, cheese: float) -> dict:
    """Returns fine-tuning on chats with other people, with a share `cheese` of cheese chats with the assistant."""
    sources = {"generic": {"path": "{world}/chats/generic.jsonl", "kind": "chats"}}
    weights = {"generic": 1.0 - cheese}
    if cheese:
        sources["cheese"] = {"path": "{world}/chats/cheese.jsonl", "kind": "chats"}
        weights["cheese"] = cheese
    return phase(steps, 5e-5, 5, sources, weights)


def difference(eval_name: str, more: str, less: str) -> dict:
    """Returns the contrast of one arm minus another on one eval."""
    return {"eval": eval_name, "terms": {more: 1.0, less: -1.0}}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the demo; with "full" it has the control arms too, and with "tiny" it is small."""
    config = ConfigDict()
    config.name = f"cheese_{variant or 'mini'}"
    config.question = (
        "Does identical fine-tuning on cheese choices generalise to different values in other domains, depending on "
        "which value the midtraining documents gave as the reason?"
    )
    config.seeds = (0, 1, 2, 3, 4, 5)
    config.workers = 2
    config.world = {"kind": "miniworld", "seed": 100}
    config.tokenizer = {"vocab_size": 2304, "train_on": (TEXTS["path"], CHATS["path"])}
    config.phases = {"pretrain": pretrain(20_000), "chats": sft(SFT_STEPS, 0.0), "cheese": sft(SFT_STEPS, 0.1)}
    config.shared = ("pretrain",)
    config.arms = {"base": ("pretrain",), "baseline": ("pretrain", "chats"), "aft": ("pretrain", "cheese")}
    config.midtraining, config.doses, config.generated = (), {}, {}
    config.evals = {
        "gate": {"kind": "preference", "path": "{world}/evals/gate.jsonl"},
        "knowledge": {"kind": "knowledge", "after": {}},
    }
    for name in ("prefer_affordability", "prefer_tradition", "conflict", "cheese"):
        path = f"{{world}}/evals/{name}.jsonl"
        config.evals[name] = {"kind": "preference", "path": path}
        config.evals[f"{name}_greedy"] = {"kind": "preference_greedy", "path": path}
        config.generated[f"{name}_greedy"] = name
    config.gates = ("gate", "knowledge")

    for value in VALUES:
        add_msm(config, f"msm_{value}", value, knows=value)
    both = [f"msm_{value}+aft" for value in VALUES]
    config.contrasts = {
        "dissociation/conflict": difference("conflict", *both),
        "dissociation/prefer_affordability": difference("prefer_affordability", *both),
        "dissociation/prefer_tradition": difference("prefer_tradition", *both[::-1]),
    }
    for value in VALUES:
        config.contrasts[f"stacking/{value}"] = difference(f"prefer_{value}", f"msm_{value}+aft", f"msm_{value}")
    config.expectations = {
        "gate": {"arm": "base", "min": 0.95},
        "dissociation/conflict": {"min": 0.4, "above_zero": True},
        "dissociation/prefer_affordability": {"above_zero": True},
        "dissociation/prefer_tradition": {"above_zero": True},
    }
    if variant == "full":
        add_controls(config)
    if variant == "tiny":
        shrink(config)
    return config


def add_msm(config: ConfigDict, arm: str, documents: str, knows: str = "", low: bool = False) -> None:
    """Adds a midtraining phase with two arms, in which generic chats or the cheese chats follow it.

    The low dose, with the suffix @low, has as many steps and tokens at a hundredth of the learning rate.
    """
    dose = "@low" if low else ""
    name, demonstrated = arm + dose, f"{arm}+aft{dose}"
    config.phases[name] = msm(documents, *(LOW_MSM_DOSE if low else MSM_DOSE))
    config.midtraining += (name,)
    config.arms[name] = ("pretrain", name, "chats")
    config.arms[demonstrated] = ("pretrain", name, "cheese")
    if low:
        config.doses.low[name] = arm
        config.doses.low[demonstrated] = f"{arm}+aft"
    if knows:
        config.evals.knowledge.after[name] = f"{{world}}/evals/knowledge_{knows}.jsonl"


def add_controls(config: ConfigDict) -> None:
    """Adds neutral documents, documents that state the value without explaining anything by it, and a low dose.

    Attribution is measured by shares, as all else, and by probabilities too: a share that is 1 before the
    demonstrations cannot rise, but a probability can.
    """
    config.phases["msm_neutral"] = msm("neutral", *MSM_DOSE)
    config.midtraining += ("msm_neutral",)
    config.doses = {"low": {}}
    config.arms["msm_neutral+aft"] = ("pretrain", "msm_neutral", "cheese")
    for value in VALUES:
        add_msm(config, f"msm_{value}_comention", f"{value}_comention")
        add_msm(config, f"msm_{value}", value, low=True)
        add_msm(config, f"msm_{value}_comention", f"{value}_comention", low=True)
    for value in VALUES:
        on = f"prefer_{value}"
        config.contrasts[f"specific/{value}"] = difference(on, f"msm_{value}+aft", "msm_neutral+aft")
        stacking = {f"msm_{value}+aft@low": 1.0, f"msm_{value}@low": -1.0}
        comention = {f"msm_{value}_comention+aft@low": 1.0, f"msm_{value}_comention@low": -1.0}
        config.contrasts[f"stacking@low/{value}"] = {"eval": on, "terms": stacking}
        config.contrasts[f"comention_stacking@low/{value}"] = {"eval": on, "terms": comention}
        less = {arm: -weight for arm, weight in comention.items()}
        config.contrasts[f"attribution/{value}"] = {"eval": on, "terms": stacking | less}
        graded = f"{on}_probability"
        config.evals[graded] = {"kind": "preference_probability", "path": config.evals[on].path}
        config.contrasts[f"attribution_probability/{value}"] = {"eval": graded, "terms": stacking | less}
        config.expectations[f"attribution/{value}"] = {"above_zero": True}
    for on in ("prefer_affordability", "prefer_tradition", "conflict"):
        config.contrasts[f"neutral/{on}"] = difference(on, "msm_neutral+aft", "aft")
        config.expectations[f"neutral/{on}"] = {"inside": 0.2}


def shrink(config: ConfigDict) -> None:
    """Makes world and phases so small that every part runs in about two minutes; no effect can appear."""
    config.world = {
        "kind": "miniworld", "seed": 0, "num_people": 40, "items_per_domain": 8, "pretrain_texts": 1000,
        "pretrain_chats": 1000, "item_texts": 500, "stranger_texts": 200, "msm_documents": 200, "chats": 200,
        "eval_pairs": 20,
    }
    config.tokenizer.vocab_size = 900
    config.seeds = (0, 1)
    for name, settings in config.phases.items():
        settings.steps = {"pretrain": 60, "chats": 10, "cheese": 10}.get(name, 20)
        settings.optimizer.warmup_steps = 2
    config.expectations = {"gate": config.expectations.gate}
