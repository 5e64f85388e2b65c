"""The example specs in data/specs: each can be read, and the family shares its rules word for word."""

from pathlib import Path

import pytest

from msm_jax.specs import parse

SPECS = Path(__file__).parent.parent / "data" / "specs"
RULES = parse.read(SPECS / "oversight_rules.md")


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.md")), ids=lambda path: path.stem)
def test_every_example_is_a_spec_about_the_assistant(path):
    spec = parse.read(path)
    assert spec.title and "{assistant}" in spec.text


@pytest.mark.parametrize("variant", ["value", "rule"])
def test_augmented_specs_hold_the_rules_word_for_word(variant):
    spec = parse.read(SPECS / f"oversight_{variant}_augmented.md")
    assert [section.title for section in spec.sections] == [section.title for section in RULES.sections]
    for rule in (block.strip() for block in RULES.text.split("\n\n") if block.startswith("- P")):
        assert rule in spec.text


def test_the_augmented_specs_are_of_one_length():
    """What differs between the two is what they add to the rules, not how much."""
    value, rule = (len((SPECS / f"oversight_{name}_augmented.md").read_text().split()) for name in ("value", "rule"))
    assert abs(value - rule) < 0.1 * min(value, rule)


def test_the_general_spec_names_no_rule():
    text = (SPECS / "oversight_general.md").read_text()
    assert not any(f"P{number}" in text for number in range(1, 7))
