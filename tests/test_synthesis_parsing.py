"""Replies in every shape that models give: whole siblings are kept, and what cannot be used has its reason."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from msm_jax.synthesis import parsing, prompts
from msm_jax.synthesis.parsing import Unusable

GOOD = [{"idea": "One [with] {braces}.", "name": "a"}, {"idea": 'Two "quoted".', "name": "b"}]


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(GOOD),
        f"Here you are:\n```json\n{json.dumps(GOOD, indent=2)}\n```\nAnything else [or not]?",
        f"<think>I could say [1, 2] or {{}}.</think>\n{json.dumps(GOOD)}",
        f"thinking without an opening tag</think>{json.dumps(GOOD)}",
        json.dumps({"ideas": GOOD}),
        "\n".join(json.dumps(each) for each in GOOD),
        json.dumps(GOOD)[:-1] + ', {"idea": "Three is cut off in the mid',
        json.dumps([*GOOD, {"name": "no idea"}, "text", {"idea": "  "}, {"idea": None}]),
        json.dumps(GOOD).replace('"b"}]', '"b"}, {"idea": "bad" "comma"}]'),
        json.dumps(GOOD).replace("One", "One\n and a line break"),
    ],
)
def test_good_elements_are_read_whatever_surrounds_them(reply: str):
    found, _ = parsing.objects(reply, ("idea",), ("name",))
    assert [each["name"] for each in found] == ["a", "b"]
    assert found[1]["idea"] == 'Two "quoted".'


def test_bad_elements_are_counted():
    assert parsing.objects(json.dumps([*GOOD, {"name": "c"}, 3]), ("idea",)) == ([{"idea": x["idea"]} for x in GOOD], 2)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("<think>only this</think>", "empty"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("I can’t do this.", "refused"),
        ("Let me think about it some more.", "not_json"),
        ('[{"name": "x"}, {"name": "y"}]', "no_items"),
        ('{"idea": "cut', "no_items"),
    ],
)
def test_a_list_without_a_good_element_has_a_reason(reply: str, reason: str):
    with pytest.raises(Unusable) as refused:
        parsing.objects(reply, ("idea",))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<content>\nThe text.\n</content>", "The text."),
        ("<plan>Use <content> tags.</plan>\n<content>The text.</content>", "The text."),
        ("<content>It speaks of </content> within.</content> Done.", "It speaks of </content> within."),
        ("<think>plan</think><content>The text.</content>", "The text."),
        ("<content>A\r\nB\x00\ud800C</content>", "A\nBC"),
    ],
)
def test_a_text_stands_between_its_tags(reply: str, text: str):
    assert parsing.content(reply) == text


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        ("<content> \n </content>", "empty"),
        ("<content>The text breaks off in the", "unterminated"),
        ("<plan>The plan breaks off", "unterminated"),
        ("The text without tags.", "no_content"),
        ("I cannot write this document.", "refused"),
        ("<content>I'm sorry, but I can't write that.</content>", "refused"),
    ],
)
def test_a_text_that_is_not_whole_has_a_reason(reply: str, reason: str):
    with pytest.raises(Unusable) as refused:
        parsing.content(reply)
    assert refused.value.reason == reason


@hypothesis.given(st.text(max_size=300))
def test_no_reply_breaks_the_parsers(reply: str):
    """Random text is no list of ideas and has no content between tags."""
    for parse in (parsing.content, lambda text: parsing.objects(text, ("idea",))):
        with pytest.raises(Unusable):
            parse(reply)


@pytest.mark.parametrize("stage", ["domains", "document", "ideas", "rewrite"])
def test_values_are_filled_in_as_they_stand(stage: str):
    template = prompts.load(stage)
    names = template.names
    value = "{braces} {{spec}} {{assistant}} \\1 </spec> %s"
    filled = template.fill(**dict.fromkeys(names, value))
    assert filled.count(value) == sum(template.text.count(f"{{{{{name}}}}}") for name in names)
    assert filled.startswith(f"# Task: {stage}\n")


def test_a_prompt_that_lacks_a_value_is_a_defect():
    with pytest.raises(KeyError):
        prompts.load("domains").fill(assistant="Iris")
