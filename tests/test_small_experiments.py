"""The experiments on the built-in world: each variant holds together, and arms that are compared spend alike."""

import runpy
from pathlib import Path

import pytest

from msm_jax.experiments import checks
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings

CONFIGS = Path(__file__).parent.parent / "configs" / "experiments"


def load(name: str, variant: str) -> ExperimentConfig:
    """Returns a variant of an experiment."""
    return settings.build(ExperimentConfig, runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant))


@pytest.mark.parametrize(
    ("name", "variant"),
    [("cheese_mini", each) for each in ("", "doses", "full", "tiny")] + [("explained", each) for each in ("", "tiny")],
)
def test_arms_contrasts_and_curves_name_what_there_is_and_no_file_is_missing(name, variant):
    config = load(name, variant)
    known = checks.check_settings(config)
    assert not checks.missing(known)
    assert {part.split("@")[0] for chain in config.arms.values() for part in chain} == set(config.phases)


def test_preference_optimisation_spends_what_demonstrations_spend():
    config = load("cheese_mini", "full")
    phases = {phase.name: phase for phase in checks.check_settings(config).phase_configs.values()}
    pairs, shown = phases["dpo"], phases["cheese"]
    assert (pairs.steps, pairs.batch_rows, pairs.data.seq_len) == (shown.steps, shown.batch_rows, shown.data.seq_len)
    assert pairs.dpo is not None and shown.dpo is None
    assert dict(pairs.data.weights) == dict(shown.data.weights)
    for arm, chain in config.arms.items():
        if arm.endswith("+dpo"):
            assert config.arms[arm.replace("+dpo", "+aft")] == (*chain[:-1], "cheese")
