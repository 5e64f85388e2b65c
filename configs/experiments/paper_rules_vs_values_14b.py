"""The paper's section 5 on models of 14 billion parameters; see configs/paper_rules_vs_values.py.

    python -m msm_jax.experiment --config=configs/experiments/paper_rules_vs_values_14b.py --workdir=DIR --dry_run

After a colon, with commas: "qwen3" for Qwen3-14B instead of Qwen2.5-14B-Instruct, "cot" for demonstrations with
thinking, "released_template" for the chat template of the authors' adapters, "devices=N" for N accelerators (2).
"""

from ml_collections import ConfigDict

from configs import paper_rules_vs_values


def get_config(argument: str = "") -> ConfigDict:
    return paper_rules_vs_values.get_config(argument, size=14, devices=2)
