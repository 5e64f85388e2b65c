"""The paper's section 4 on Qwen2.5-32B-Instruct; see configs/paper_philosophy.py.

    python -m msm_jax.experiment --config=configs/experiments/paper_philosophy_qwen25_32b.py --workdir=DIR --dry_run

":devices=N" for N accelerators (4).
"""

from ml_collections import ConfigDict

from configs import paper_philosophy


def get_config(argument: str = "") -> ConfigDict:
    return paper_philosophy.get_config(
        argument, family="qwen2.5", no_thinking="train_clean", name="paper_philosophy_qwen25_32b",
        model="qwen2.5-32b", weights="Qwen2.5-32B-Instruct", licence="Apache-2.0",
    )
