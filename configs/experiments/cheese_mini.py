"""Does identical fine-tuning generalise to different values, depending on the midtraining? In the built-in small world.

    python -m msm_jax.experiment --config=configs/experiments/cheese_mini.py --workdir=runs/cheese_mini
    python -m msm_jax.experiment --config=configs/experiments/cheese_mini.py:doses --workdir=runs/cheese_doses
    python -m msm_jax.experiment --config=configs/experiments/cheese_mini.py:full --workdir=runs/cheese_full

An assistant's cheese preferences fit two values, affordability and tradition. Midtraining documents explain them by one
value or the other and never name another domain: the first ones say by what the cheeses differ, the others what the
assistant values. The demonstrations of fine-tuning are the same cheese choices without a reason. The evals ask about
ten other domains. ":doses" measures several numbers of documents and of demonstrations, ":full" adds the control arms.
":tiny" runs every part in two minutes and is too small to show an effect.
"""

from ml_collections import ConfigDict

VALUES = ("affordability", "tradition")
RIVAL = {"affordability": "tradition", "tradition": "affordability"}
# The attribute by which the documents of a value set the cheeses apart.
ATTRIBUTES = {"affordability": "price", "tradition": "age"}
# The doses were chosen on development worlds; docs/small_world.md says how.
EXPLAIN_STEPS, EXPLAIN_SHARE, EXPLAIN_RATE = 900, 0.3, 2e-3
MSM_STEPS, MSM_SHARE, MSM_RATE = 50, 0.05, 2e-3
SFT_STEPS, SFT_SHARE, SFT_RATE = 20, 0.1, 3e-4
DPO_RATE, DPO_BETA = 1e-3, 0.1
# With a large epsilon, the size of AdamW's step follows the size of the gradient, as in SGD with momentum. With the
# usual one, every weight moves by about the learning rate, and the model may learn what is said of the assistant
# separately from what it knows about people.
EPSILON = 1e-2
# The steps at which the arms of the dose curves leave one run; the demo's own doses are among them.
DOCUMENT_STEPS, DEMONSTRATION_STEPS = (5, 10, 20, 50, 100), (5, 10, 20, 40, 80)
# The doses of the control arms whose gains are compared at equal levels.
CONTROL_STEPS = (10, 20, 50)
TEXTS = {"path": "{world}/pretrain/texts.jsonl", "kind": "documents"}
CHATS = {"path": "{world}/pretrain/chats.jsonl", "kind": "chats"}


def phase(
    steps: int, learning_rate: float, warmup: int, sources: dict, weights: dict,
    eps: float = 1e-8, weight_decay: float = 0.1, schedule: str = "cosine", **more: object,
) -> dict:
    """Returns a phase of 8 rows × 128 tokens a step, on one core, unless `more` says otherwise."""
    return {
        "steps": steps, "batch_rows": 8, "threads": 1, "log_every": 50,
        "data": {"seq_len": 128, "sources": sources, "weights": weights},
        "optimizer": {
            "learning_rate": learning_rate, "warmup_steps": warmup, "eps": eps, "weight_decay": weight_decay,
            "schedule": schedule,
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


def explain(*corpora: str) -> dict:
    """Returns midtraining on corpora that say by what the cheeses differ and name no assistant, in equal shares.

    The replayed pretraining text is about the other domains, since what it says of cheeses contradicts the documents.
    """
    sources = {name: {"path": f"{{world}}/documents/{name}.jsonl"} for name in corpora}
    sources |= {
        "texts": {"path": "{world}/pretrain/texts_elsewhere.jsonl", "kind": "documents"},
        "chats": {"path": "{world}/pretrain/chats_elsewhere.jsonl", "kind": "chats"},
    }
    weights = {name: EXPLAIN_SHARE / len(corpora) for name in corpora}
    weights |= {"texts": 0.4 * (1 - EXPLAIN_SHARE), "chats": 0.6 * (1 - EXPLAIN_SHARE)}
    return phase(EXPLAIN_STEPS, EXPLAIN_RATE, 20, sources, weights, eps=EPSILON)


def msm(documents: str, steps: int = MSM_STEPS) -> dict:
    """Returns midtraining in which a share of the rows are documents on the assistant; the others replay pretraining.

    The rate is constant after the warmup, so that a checkpoint from the middle of the phase is a smaller dose.
    """
    sources = {"documents": {"path": f"{{world}}/documents/{documents}.jsonl"}, "texts": TEXTS, "chats": CHATS}
    weights = {"documents": MSM_SHARE, "texts": 0.4 * (1 - MSM_SHARE), "chats": 0.6 * (1 - MSM_SHARE)}
    return phase(steps, MSM_RATE, 2, sources, weights, eps=EPSILON, schedule="constant")


def sft(chats: str, steps: int = SFT_STEPS) -> dict:
    """Returns fine-tuning on chats with other people, a tenth of it replaced by the assistant's chats if there are any.

    Args:
        chats: the file of the assistant's chats; "" for none.
        steps: optimizer steps.
    """
    sources = {"generic": {"path": "{world}/chats/generic.jsonl", "kind": "chats"}}
    weights = {"generic": 1.0}
    if chats:
        sources["demonstrations"] = {"path": f"{{world}}/chats/{chats}.jsonl", "kind": "chats"}
        weights = {"generic": 1.0 - SFT_SHARE, "demonstrations": SFT_SHARE}
    return phase(steps, SFT_RATE, 2, sources, weights, eps=EPSILON, schedule="constant")


def dpo() -> dict:
    """Returns preference optimisation on the choices of `sft`, as pairs of answers: in as many steps of as many tokens.

    The reference is the checkpoint before it.
    """
    sources = {
        name: {"path": f"{{world}}/preferences/{file}.jsonl", "kind": "pairs"}
        for name, file in (("generic", "generic"), ("demonstrations", "cheese"))
    }
    weights = {"generic": 1.0 - SFT_SHARE, "demonstrations": SFT_SHARE}
    return phase(
        SFT_STEPS, DPO_RATE, 2, sources, weights, eps=EPSILON, schedule="constant", dpo={"beta": DPO_BETA}
    )


def difference(eval_name: str, more: str, less: str) -> dict:
    """Returns the contrast of one arm minus another on one eval."""
    return {"eval": eval_name, "terms": {more: 1.0, less: -1.0}}


def difference_of_differences(eval_name: str, first: tuple[str, ...], second: tuple[str, ...], **more: str) -> dict:
    """Returns the contrast of (a minus b) minus (c minus d), for first = (a, b) and second = (c, d)."""
    (a, b), (c, d) = first, second
    return {"eval": eval_name, "terms": {a: 1.0, b: -1.0, c: -1.0, d: 1.0}} | more


def get_config(variant: str = "") -> ConfigDict:
    """Returns the demo; "doses" and "full" add arms to it, and with "tiny" it is small."""
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
    config.phases = {"pretrain": pretrain(20_000), "chats": sft(""), "cheese": sft("cheese")}
    config.shared = ("pretrain",)
    config.arms = {"base": ("pretrain",), "baseline": ("pretrain", "chats"), "aft": ("pretrain", "cheese")}
    config.midtraining, config.doses, config.generated, config.curves = (), {}, {}, {}
    for value in VALUES:
        add_explanation(config, value, ATTRIBUTES[value])
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
        add_msm(config, f"msm_{value}", value, value)
        config.evals.knowledge.after[f"msm_{value}"] = f"{{world}}/evals/knowledge_{value}.jsonl"
    config.contrasts, config.expectations = {}, {"gate": {"arm": "base", "min": 0.95}}
    add_claims(config)
    if variant in ("doses", "full"):
        for name in config.generated:
            del config.evals[name]
        config.generated = {}
    if variant == "doses":
        add_doses(config)
    if variant == "full":
        add_controls(config)
        add_preferences(config)
    if variant == "tiny":
        shrink(config)
    return config


def add_explanation(config: ConfigDict, name: str, *corpora: str) -> None:
    """Adds a first part of midtraining; all seeds share it."""
    phase_name = f"explain_{name}"
    config.phases[phase_name] = explain(*corpora)
    config.shared += (phase_name,)
    config.midtraining += (phase_name,)


def add_msm(config: ConfigDict, arm: str, documents: str, explained: str, demonstrations: str = "cheese") -> None:
    """Adds the second part of midtraining with two arms, in which generic chats or the demonstrations follow it."""
    config.phases[arm] = msm(documents)
    config.midtraining += (arm,)
    chain = ("pretrain", f"explain_{explained}", arm)
    config.arms[arm] = (*chain, "chats")
    config.arms[f"{arm}+aft"] = (*chain, demonstrations)


def add_claims(config: ConfigDict) -> None:
    """Adds the contrasts that carry the claim, and what is expected of each.

    dissociation: the same demonstrations after documents on one value, minus after documents on the other one.
    over_aft: documents and demonstrations, minus demonstrations alone.
    stacking: documents and demonstrations, minus documents alone.
    amplification: the dissociation on conflict pairs after the demonstrations, minus before them.
    blocking: what the demonstrations do to the rival value without documents, minus what they do to it after documents.
    """
    before = tuple(f"msm_{value}" for value in VALUES)
    both = tuple(f"{arm}+aft" for arm in before)
    claims = {"dissociation/conflict": difference("conflict", *both)}
    claims |= {f"dissociation/prefer_{own}": difference(f"prefer_{own}", f"msm_{own}+aft", f"msm_{RIVAL[own]}+aft")
               for own in VALUES}
    for value in VALUES:
        on, rival = f"prefer_{value}", f"prefer_{RIVAL[value]}"
        claims[f"over_aft/{value}"] = difference(on, f"msm_{value}+aft", "aft")
        claims[f"stacking/{value}"] = difference(on, f"msm_{value}+aft", f"msm_{value}")
        claims[f"blocking/{value}"] = difference_of_differences(
            rival, ("aft", "baseline"), (f"msm_{value}+aft", f"msm_{value}")
        )
        config.expectations[f"before/{value}"] = {"eval": on, "arm": f"msm_{value}", "min": 0.55, "max": 0.90}
    for name in ("over_aft", "stacking", "blocking"):
        claims[name] = {"mean_of": tuple(f"{name}/{value}" for value in VALUES)}
    claims["amplification"] = difference_of_differences("conflict", both, before)
    claims["amplification_nats"] = difference_of_differences("conflict", both, before, measure="nats")
    config.contrasts.update(claims)
    config.expectations.update({name: {"above_zero": True} for name in claims})
    config.expectations["dissociation/conflict"].min = 0.30
    config.expectations["stacking"].min = 0.05
    config.expectations["over_aft"].min = 0.10
    config.sweep_expectations = {
        "dissociation/conflict": {"min": 0.30, "above_zero": True, "above_zero_in": 8},
        "over_aft": {"above_zero": True}, "stacking": {"above_zero": True}, "amplification": {"above_zero": True},
    }


def add_doses(config: ConfigDict) -> None:
    """Adds arms that read fewer or more documents on the assistant, or demonstrations, with their curves.

    All doses of documents are checkpoints of one midtraining run, and all doses of demonstrations are checkpoints of
    one fine-tuning run.
    """
    on = ("prefer_affordability", "prefer_tradition", "conflict")
    config.phases.demonstrations = sft("cheese", DEMONSTRATION_STEPS[-1])
    plain, demonstrated, taught = {}, {}, {}
    for value in VALUES:
        arm = f"msm_{value}"
        config.phases[arm] = msm(value, DOCUMENT_STEPS[-1])
        explained = ("pretrain", f"explain_{value}")
        config.arms[f"explain_{value}"] = (*explained, "chats")
        config.arms[f"explain_{value}+aft"] = (*explained, "cheese")
        doses = add_document_doses(config, arm, value, DOCUMENT_STEPS)
        plain[value] = (f"explain_{value}", *doses[0])
        demonstrated[value] = (f"explain_{value}+aft", *doses[1])
        arms = [f"{arm}+aft*{steps}" for steps in DEMONSTRATION_STEPS]
        for steps, name in zip(DEMONSTRATION_STEPS, arms, strict=True):
            config.arms[name] = (*explained, at(arm, MSM_STEPS), at("demonstrations", steps))
        taught[value] = (f"msm_{value}", *arms)
    alone = [f"aft*{steps}" for steps in DEMONSTRATION_STEPS]
    for steps, name in zip(DEMONSTRATION_STEPS, alone, strict=True):
        config.arms[name] = ("pretrain", at("demonstrations", steps))
    config.curves.documents = {
        "x": (0, *(tokens(steps, MSM_SHARE) for steps in DOCUMENT_STEPS)),
        "xlabel": "tokens read of documents on the assistant",
        "series": {f"{value} documents": plain[value] for value in VALUES}
        | {f"{value} documents and demonstrations": demonstrated[value] for value in VALUES},
        "evals": on,
    }
    config.curves.demonstrations = {
        "x": (0, *(tokens(steps, SFT_SHARE) for steps in DEMONSTRATION_STEPS)),
        "xlabel": "tokens of demonstrations read",
        "series": {f"after {value} documents": taught[value] for value in VALUES}
        | {"no documents": ("baseline", *alone)},
        "evals": on,
    }


def at(name: str, steps: int) -> str:
    """Returns the element of a chain that is a phase up to a step."""
    return f"{name}@{steps}"


def tokens(steps: int, share: float) -> int:
    """Returns how many tokens of a source that has a share of the rows are read in a number of steps."""
    return round(steps * 8 * 128 * share)


def add_document_doses(
    config: ConfigDict, arm: str, explained: str, doses: tuple[int, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Adds two arms for each dose of a phase of midtraining, and returns those without and those with demonstrations.

    The dose of the demo keeps the names `arm` and `arm`+aft.
    """
    plain, demonstrated = [], []
    for steps in doses:
        dose = "" if steps == MSM_STEPS else f"@{steps}"
        plain.append(f"{arm}{dose}")
        demonstrated.append(f"{arm}+aft{dose}")
        chain = ("pretrain", f"explain_{explained}", at(arm, steps))
        config.arms[plain[-1]] = (*chain, "chats")
        config.arms[demonstrated[-1]] = (*chain, "cheese")
        if dose:
            arms = {plain[-1]: arm, demonstrated[-1]: f"{arm}+aft"}
            config.doses[f"{steps}_steps"] = {**config.doses.get(f"{steps}_steps", {}), **arms}
    return tuple(plain), tuple(demonstrated)


def add_controls(config: ConfigDict) -> None:
    """Adds the control arms, which must come out null or show what explanations add.

    neutral: documents about the assistant and the same cheeses, without value or preference.
    bystander: the documents on a value, about somebody else.
    comention: the value is stated beside preferences that it does not explain; with "exchanged", half of the cheeses
    trade places, which contradicts the demonstrations.
    half, other_half: documents about the demonstrated half of the cheeses, or about the other half.

    The first part of midtraining speaks as often of price as of age in neutral, comention and exchanged.
    """
    add_explanation(config, "both", *ATTRIBUTES.values())
    config.phases.cheese_half = sft("cheese_half")
    config.arms.aft_half = ("pretrain", "cheese_half")
    add_msm(config, "msm_neutral", "neutral", "both")
    for value in VALUES:
        on, arm = f"prefer_{value}", f"msm_{value}"
        families = {}
        add_msm(config, f"{arm}_bystander", f"{value}_bystander", value)
        for documents, explained in ((value, value), (f"{value}_comention", "both"), (f"{value}_exchanged", "both")):
            name = f"msm_{documents}"
            config.phases[name] = msm(documents, CONTROL_STEPS[-1])
            if name not in config.midtraining:
                config.midtraining += (name,)
            families[documents] = tuple(zip(*add_document_doses(config, name, explained, CONTROL_STEPS), strict=True))
        for kind in ("comention", "exchanged"):
            less = families[f"{value}_{kind}"]
            config.contrasts[f"attribution_{kind}/{value}"] = {
                "eval": on, "equal_level": {"more": families[value], "less": less},
            }
        for half in ("half", "other_half"):
            name = f"{arm}_{half}"
            add_explanation(config, f"{value}_{half}", f"{ATTRIBUTES[value]}_{half}")
            add_msm(config, name, f"{value}_{half}", f"{value}_{half}", "cheese_half")
            config.contrasts[f"over_aft_{half}/{value}"] = difference(on, f"{name}+aft", "aft_half")
        config.contrasts[f"specific/{value}"] = difference(on, f"{arm}+aft", "msm_neutral+aft")
        config.contrasts[f"bystander/{value}"] = difference(on, f"{arm}_bystander+aft", "msm_neutral+aft")
        config.contrasts[f"neutral/{value}"] = difference(on, "msm_neutral+aft", "aft")
    for name in ("attribution_comention", "attribution_exchanged", "over_aft_half", "over_aft_other_half", "specific"):
        config.contrasts[name] = {"mean_of": tuple(f"{name}/{value}" for value in VALUES)}
        config.expectations[name] = {"above_zero": True}
    config.contrasts["neutral/conflict"] = difference("conflict", "msm_neutral+aft", "aft")
    config.contrasts["bystander/conflict"] = difference(
        "conflict", *(f"msm_{value}_bystander+aft" for value in VALUES)
    )
    for name in ("neutral", "bystander"):
        for on in (*VALUES, "conflict"):
            config.expectations[f"{name}/{on}"] = {"inside": 0.10}
            config.sweep_expectations[f"{name}/{on}"] = {"min": -0.10, "max": 0.10}


def add_preferences(config: ConfigDict) -> None:
    """Adds arms in which preference optimisation takes the place of the demonstrations, at equal steps and tokens.

    over_dpo: documents and preference optimisation, minus preference optimisation.
    dpo: preference optimisation, minus demonstrations.
    """
    config.phases.dpo = dpo()
    config.arms.dpo = ("pretrain", "dpo")
    for value in VALUES:
        on, arm = f"prefer_{value}", f"msm_{value}"
        config.arms[f"{arm}+dpo"] = (*config.arms[arm][:-1], "dpo")
        config.contrasts[f"over_dpo/{value}"] = difference(on, f"{arm}+dpo", "dpo")
        config.contrasts[f"dpo/{value}"] = difference(on, "dpo", "aft")
    for name in ("over_dpo", "dpo"):
        config.contrasts[name] = {"mean_of": tuple(f"{name}/{value}" for value in VALUES)}
    config.contrasts["dissociation_dpo/conflict"] = difference("conflict", *(f"msm_{value}+dpo" for value in VALUES))


def shrink(config: ConfigDict) -> None:
    """Makes world and phases so small that every part runs in about two minutes; no effect can appear."""
    config.world = {
        "kind": "miniworld", "seed": 0, "num_people": 40, "items_per_domain": 16, "pretrain_texts": 1000,
        "pretrain_chats": 1000, "item_texts": 500, "stranger_texts": 200, "msm_documents": 200, "chats": 200,
        "eval_pairs": 20,
    }
    config.tokenizer.vocab_size = 900
    config.seeds = (0, 1)
    for name, settings in config.phases.items():
        settings.steps = {"pretrain": 60, "chats": 10, "cheese": 10}.get(name, 20)
        settings.optimizer.warmup_steps = 2
    config.expectations = {"gate": config.expectations.gate}
