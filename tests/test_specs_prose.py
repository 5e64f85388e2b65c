"""Specs of any form: variables are filled, code and braces stay, and parts together hold the whole text."""

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from msm_jax.errors import InputError
from msm_jax.specs import prose

NAMES = {"assistant": "Iris", "provider": "Northwind"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{assistant} is made by {provider}, and is calm.", "Iris is made by Northwind, and is calm."),
        ("{assistant}'s own words, in {assistant}-like prose here.", "Iris's own words, in Iris-like prose here."),
        ("Write `{unknown}` and ``{assistant}`` in code as it is.", ""),
        ("A stray { brace, {} two, {{unknown}} and {Not A Name}.", ""),
        (r"Formulas such as \frac{a}{b}, x_{i} and ${HOME} stay.", ""),
        ('JSON like {"a": 1, "b": {"c": 2}} stays as it is.', ""),
    ],
)
def test_variables_are_filled_and_other_braces_stay(text: str, filled: str):
    """Where `filled` is empty, the text stays what it is."""
    assert prose.parse(text, NAMES).text == (filled or text)


def test_a_fenced_block_is_left_alone():
    code = "```python\nx = {unknown}\n# not a heading\n```"
    text = f"Prose about {{assistant}} and its ways.\n\n{code}\n\nMore of {{provider}}.\n"
    found = prose.parse(text, NAMES)
    assert "x = {unknown}" in found.text and "More of Northwind." in found.text
    assert len(found.sections) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n\n ", "is empty"),
        (b"# Title\n\n## One\n\n## Two\n", "has no prose"),
        (b"a text with \x00 a zero byte in its middle", "holds a zero byte"),
        (b"line\n\xff\xfe\x80 binary", "spec.md:2: is not UTF-8"),
        (b"Iris is calm and kind.\nIt is {tone} to everyone it meets.", "spec.md:2: variable {tone} is unknown"),
        (b"It is {asistant} who answers the people here.", "did you mean assistant"),
    ],
)
def test_a_file_that_is_no_spec_is_refused_with_its_line(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "spec.md"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        prose.read(path, NAMES)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_sections_have_their_headings_and_a_title_is_optional():
    text = "Before all headings stands this.\n\n# Top\n\ntext one\n\n### Deep\n\ntext two\n\n## Next\n\nlast"
    found = prose.parse(text, {})
    assert [section.headings for section in found.sections] == [(), ("Top",), ("Top", "Deep"), ("Top", "Next")]
    assert [section.name for section in found.sections] == ["Before all headings stands this.", "Top", "Deep", "Next"]
    assert found.title == "Top"
    assert prose.parse("One sentence about a calm assistant.", {}, "dir/calm.txt").title == "calm"


def test_principles_keep_their_identifiers():
    text = """Some words about the assistant come first.

- SP1: The first one.
  It goes on here.
- **GP2.** The second one.

### SP3 Honesty
It tells the truth, even when that is hard.

1. R4.1 — A rule in a numbered list.

SP1 is mentioned again here, and stays what it was. In 2024 nothing else happened.
"""
    found = {each.id: each for each in prose.parse(text, {}).principles}
    assert list(found) == ["SP1", "GP2", "SP3", "R4.1"]
    assert found["SP1"].text == "The first one. It goes on here."
    assert found["SP3"].text.startswith("Honesty. It tells the truth")
    assert found["SP3"].section == "SP3 Honesty"


def test_without_identifiers_numbered_items_are_the_principles():
    found = prose.parse("Rules of the assistant:\n\n1. Be kind to people.\n2. Be brief with them.\n", {}).principles
    assert [(each.id, each.text) for each in found] == [("1", "Be kind to people."), ("2", "Be brief with them.")]


@hypothesis.given(
    st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(50, 120)
)
def test_parts_hold_all_words_and_keep_to_their_size(paragraphs: list[list[int]], most: int):
    texts = []
    for i, sizes in enumerate(paragraphs):
        told = [" ".join(f"w{i}x{j}x{k}" for k in range(size)) for j, size in enumerate(sizes)]
        texts.append("\n\n".join([f"## Section {i}", *told]))
    spec = prose.parse("Few first signs stand here.\n\n" + "\n\n".join(texts), {})
    parts = prose.units(spec, most)
    told = [word for part in parts for word in part.text.split()]
    wanted = [word for text in texts for word in text.split() if word[0] == "w"]
    assert [word for word in told if word[0] == "w"] == wanted
    assert all(part.words <= most + 10 for part in parts)
