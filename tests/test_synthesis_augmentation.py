"""Drafts of augmented specs keep the rules word for word and their variables, and add to each section of rules."""

from pathlib import Path

import pytest

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.specs import prose
from msm_jax.synthesis import augmentation
from msm_jax.synthesis.augmentation import AugmentConfig

RULES = Path(__file__).parent.parent / "data" / "specs" / "oversight_rules.md"
VARIABLES = {"assistant": "{assistant}", "provider": "{provider}"}


def settings_of(path: Path) -> AugmentConfig:
    """Returns settings with a writer in this process."""
    writer = {"model": "python:synthesis_writer:opened"}
    return settings.build(AugmentConfig, {"spec": {"path": str(path), **VARIABLES}, "writer": writer})


def test_drafts_hold_the_rules_word_for_word_and_something_below_each(tmp_path):
    paths = augmentation.run(settings_of(RULES), tmp_path)
    assert [path.name for path in paths] == ["oversight_rules_value.md", "oversight_rules_rule.md"]
    rules = prose.read(RULES, VARIABLES)
    for path in paths:
        draft = prose.read(path, VARIABLES)
        assert "{assistant}" in draft.text
        before = {principle.id: principle.text for principle in rules.principles}
        assert before.items() <= {principle.id: principle.text for principle in draft.principles}.items()
        for section in augmentation.rules(rules).values():
            (longer,) = (each for each in draft.sections if each.name == section.name)
            assert longer.text.startswith(section.text) and len(longer.text) > len(section.text) + 50
    finer = prose.read(paths[1], VARIABLES).principles
    assert {"P1.1", "P5.2"} <= {principle.id for principle in finer}


def test_drafts_repeat(tmp_path):
    first = [path.read_bytes() for path in augmentation.run(settings_of(RULES), tmp_path / "a")]
    assert first == [path.read_bytes() for path in augmentation.run(settings_of(RULES), tmp_path / "b")]


def test_a_spec_without_numbered_rules_is_refused(tmp_path):
    path = tmp_path / "spec.md"
    path.write_text("{assistant} is kind, because people are kind to it.")
    with pytest.raises(InputError, match="has no numbered rules"):
        augmentation.run(settings_of(path), tmp_path)
