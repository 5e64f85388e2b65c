"""The paper's section 4 on Qwen2.5-32B-Instruct; see configs/paper_philosophy.py.

    python -m msm_jax.experiment --config=configs/experiments/paper_philosophy_qwen25_32b.py --workdir=DIR --dry_run

After a colon, with commas: "devices=N" for N accelerators (4), "released_template" for the chat template of the
authors' adapters in place of the model's own, "own_codes" for a code book of reasons made of the transcripts of these
arms in place of the one with the reasons that the paper names.
"""

from ml_collections import ConfigDict

from configs import paper_philosophy


def get_config(argument: str = "") -> ConfigDict:
    return paper_philosophy.get_config(argument, "qwen2.5", "paper_philosophy_qwen25_32b")
