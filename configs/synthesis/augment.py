"""Drafts of a spec of rules with the values behind them, and with finer rules.

    python -m msm_jax.augment --config=configs/synthesis/augment.py:RULES.md --workdir=runs/augment

The writer is the built-in scripted one, whose drafts only show the form; docs/data.md says how to name another.
"""

from ml_collections import ConfigDict


def get_config(spec: str = "data/specs/oversight_rules.md") -> ConfigDict:
    config = ConfigDict()
    # Variables that stand for themselves stay in the drafts.
    config.spec = {"path": spec, "assistant": "{assistant}", "provider": "{provider}"}
    config.writer = {"model": "scripted", "base_url": "", "options": {}, "arguments": {}}
    config.variants = ("value", "rule")
    config.words = 250
    config.run = {"seed": 0, "concurrency": 20, "attempts": 3, "max_dollars": 0.0, "max_tokens": 0, "prices": {}}
    return config
