"""The grid of agentic misalignment on one checkpoint, and what it costs.

    python -m msm_jax.experiment --config=configs/experiments/grid.py:qwen3-8b --workdir=DIR --dry_run

says what 27 × 300 transcripts take, before there are weights; without --dry_run it runs. After the preset, with commas:
"devices=N" accelerators (1), "rows=N" replies side by side (64). Another chip:
--config.accelerator=H100.
"""

from ml_collections import ConfigDict

from configs import paper, paper_conduct


def get_config(argument: str = "qwen3-8b") -> ConfigDict:
    preset, *rest = argument.split(",")
    words, devices, _ = paper.options(",".join(rest), devices=1)
    rows = next((int(word.removeprefix("rows=")) for word in words if word.startswith("rows=")), 64)
    config = paper.experiment(f"grid_{preset}", preset, preset, "its licence", devices)
    config.question = "How often does this checkpoint choose harm in the grid of agentic misalignment?"
    config.seeds = (0,)
    config.scoring.batch = rows
    config.arms = {"checkpoint": ()}
    config.evals = {"grid": paper_conduct.grid(thinks=preset.startswith("qwen3"))}
    return config
