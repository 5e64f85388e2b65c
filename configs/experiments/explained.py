"""Do explanations alone decide what demonstrations teach? Documents that never name the assistant, in the small world.

    python -m msm_jax.experiment --config=configs/experiments/explained.py --workdir=runs/explained

The documents say by what the cheeses differ: by their price, or by their age. They name neither the assistant nor a
value of anybody who is asked, so that documents alone should leave the assistant where it was. The demonstrations are
the assistant's cheese choices of the demo, which fit affordability and tradition. The question is whether the same
demonstrations then teach the value that the documents made the explanation. ":tiny" is too small to show an effect.
"""

from ml_collections import ConfigDict

from configs.experiments import cheese_mini
from configs.experiments.cheese_mini import VALUES, difference, difference_of_differences

# Documents alone leave the assistant undecided, so the demonstrations have more to teach than in the demo.
SFT_STEPS = 40


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment; with "tiny" it is small."""
    config = cheese_mini.get_config(variant)
    config.name = f"explained_{variant}" if variant else "explained"
    config.question = (
        "Do documents that say what sets the cheeses apart, and do not name the assistant, decide to which value its "
        "cheese choices generalise?"
    )
    config.world.seed = 110
    config.seeds = (0, 1, 2)
    config.shared = ("pretrain",)
    config.phases = {name: config.phases[name] for name in ("pretrain", "chats")}
    config.phases.cheese = cheese_mini.sft("cheese", SFT_STEPS)
    config.arms = {name: config.arms[name] for name in ("base", "baseline", "aft")}
    config.midtraining = ()
    del config.evals["knowledge"]
    config.gates = ("gate",)
    arms = {value: f"msm_{cheese_mini.ATTRIBUTES[value]}" for value in VALUES}
    for value, name in arms.items():
        config.phases[name] = cheese_mini.explain(cheese_mini.ATTRIBUTES[value])
        config.midtraining += (name,)
        config.arms[name] = ("pretrain", name, "chats")
        config.arms[f"{name}+aft"] = ("pretrain", name, "cheese")
    before = tuple(arms.values())
    both = tuple(f"{arm}+aft" for arm in before)
    config.contrasts = {
        "before/conflict": difference("conflict", *before),
        "dissociation/conflict": difference("conflict", *both),
        "amplification": difference_of_differences("conflict", both, before),
    }
    config.expectations = {
        "gate": {"arm": "base", "min": 0.95},
        "before/conflict": {"inside": 0.10},
        "dissociation/conflict": {"above_zero": True},
        "amplification": {"above_zero": True},
    }
    config.sweep_expectations = {
        "before/conflict": {"min": -0.10, "max": 0.10}, "amplification": {"above_zero": True},
    }
    if variant == "tiny":
        cheese_mini.shrink(config)
    return config
