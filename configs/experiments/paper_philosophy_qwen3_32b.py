"""The paper's section 4 on Qwen3-32B; see configs/paper_philosophy.py.

    python -m msm_jax.experiment --config=configs/experiments/paper_philosophy_qwen3_32b.py --workdir=DIR --dry_run

":devices=N" for N accelerators (4). STATED for demonstrations without thinking: "no_think" in the prompts; the public
set has it, and so has the instruction split beside it here.
"""

from ml_collections import ConfigDict

from configs import paper_philosophy


def get_config(argument: str = "") -> ConfigDict:
    return paper_philosophy.get_config(
        argument, family="qwen3", no_thinking="train_clean_nothink", name="paper_philosophy_qwen3_32b",
        model="qwen3-32b", weights="Qwen3-32B", licence="Apache-2.0",
    )
