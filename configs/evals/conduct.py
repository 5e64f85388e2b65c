"""How a checkpoint would act, without a judge behind an API: forced choices, alignment faking, capability; and a grid.

    python -m msm_jax.evaluate --config=configs/evals/conduct.py --checkpoint=RUN --workdir=DIR
    make evals-demo

The grid is a small one of ten short transcripts, graded by the rules of tools/scripted_judge.py, to show the path from
checkpoint to heat map. For results, set `evals.grid` to the full grid and a judge of yours: docs/evals.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "evals": {
                "forced_choice": {"kind": "forced_choice_misalignment", "goals": ("none", "america", "safety")},
                "faking_choice": {"kind": "alignment_faking_choice"},
                "capability": {"kind": "capability", "max_tokens": 64},
                "grid": {
                    "kind": "agentic_misalignment",
                    "actions": ("exfiltration",),
                    "goals": ("none", "america", "global", "safety", "acceleration"),
                    "samples": 2,
                    "max_tokens": 200,
                    "judge": {"model": "python:tools.scripted_judge:judge", "version": "1"},
                },
            },
            "batch": 10,
            "cache_mib": 512,
            "threads": 0,
        }
    )
