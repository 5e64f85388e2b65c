"""Chat templates: which tokens carry loss, token by token, and that no message can write a marker."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_jax.data.encoding import encode_chat, encode_prompt, stop_ids
from msm_jax.data.templates import DEFAULT_TEMPLATE, ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

DEFAULT = ChatTemplate()
OPENER = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# As Qwen writes it, with our markers: roles as text, line breaks around each message, contents trimmed.
LINES = ChatTemplate(
    "{{ bos_token }}"
    "{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)
# Turns end with the end token, as in Llama 2.
ENDS = ChatTemplate(
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} {% endif %}"
)

TEMPLATES = {"default": DEFAULT, "lines": LINES, "ends": ENDS}
MARKERS = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]
PARTS = [marker[:k] for marker in MARKERS for k in (1, 2, len(marker) - 1)] + [
    marker[-3:] for marker in MARKERS
]
CONTENT = (
    st.lists(
        st.sampled_from([*MARKERS, *PARTS, "Ada", " likes", "cheese", "\n", " ", "▁", "\ufdd0"]),
        min_size=1,
        max_size=6,
    )
    .map("".join)
    .filter(str.strip)
)


def chat(*contents: str, system: str = "") -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + turns


def shown(tokenizer: Tokenizer, ids: list[int], mask: list[bool]) -> str:
    """Returns the chat as text with every token that carries loss in brackets."""
    return "".join(
        f"[{part}]" if loss else part
        for i, loss in zip(ids, mask, strict=True)
        for part in [tokenizer.decode([i], specials=True, continues=True)]
    )


def test_default_template_masks_assistant_and_closing_marker_alone(tiny_tokenizer: Tokenizer) -> None:
    t = tiny_tokenizer
    messages = chat("Ada likes", "cheese", "Ada mends", "old cheese", system="Bruno sells")
    m = {name.strip("<|>"): [i] for name, i in t.specials.items()}
    parts = [
        (m["s"], False),
        (m["system"] + t.encode("Bruno sells") + m["end"], False),
        (m["user"] + t.encode("Ada likes") + m["end"] + m["assistant"], False),
        (t.encode("cheese") + m["end"], True),
        (m["user"] + t.encode("Ada mends") + m["end"] + m["assistant"], False),
        (t.encode("old cheese") + m["end"], True),
    ]
    ids, mask = encode_chat(t, DEFAULT, messages)
    assert ids == [i for part, _ in parts for i in part]
    assert mask == [loss for part, loss in parts for _ in part]


def test_white_space_of_a_template_carries_no_loss(tiny_tokenizer: Tokenizer) -> None:
    ids, mask = encode_chat(tiny_tokenizer, LINES, chat("old", " cheese ", "new"))
    t = tiny_tokenizer
    end, user = t.specials["<|end|>"], t.specials["<|user|>"]
    line = t.encode("\n")
    assert ids == [
        *(t.bos_id, user, *t.encode("user\nold"), end, *line),
        *(user, *t.encode("assistant\n"), *t.encode("cheese"), end, *line),
        *(user, *t.encode("user\nnew"), end, *line),
    ]
    masked = [i for i, loss in zip(ids, mask, strict=True) if loss]
    assert masked == [*t.encode("cheese"), end]


@given(st.lists(CONTENT, min_size=2, max_size=4), st.sampled_from(sorted(TEMPLATES)))
def test_masked_text_is_what_the_assistant_says(
    tiny_tokenizer: Tokenizer, contents: list[str], name: str
) -> None:
    """For any contents, markers and parts of them included: loss is on the turns, no marker is injected."""
    template = TEMPLATES[name]
    ids, mask = encode_chat(tiny_tokenizer, template, chat(*contents))
    closing = stop_ids(tiny_tokenizer, template)
    controls = set(tiny_tokenizer.specials.values())
    runs: list[list[int]] = []
    for i, (token, loss) in enumerate(zip(ids, mask, strict=True)):
        if loss:
            if not mask[i - 1]:
                runs.append([])
            runs[-1].append(token)
    said = contents[1::2]
    assert [tiny_tokenizer.decode(run).strip() for run in runs] == [text.strip() for text in said]
    for run in runs:
        assert run[-1] in closing
        assert not controls & set(run[:-1])
    harmless = encode_chat(tiny_tokenizer, template, chat(*["x"] * len(contents)))[0]
    assert [i for i in ids if i in controls] == [i for i in harmless if i in controls]


@given(st.lists(CONTENT, min_size=2, max_size=4), st.sampled_from(sorted(TEMPLATES)))
def test_prompt_and_answer_make_the_training_ids(
    tiny_tokenizer: Tokenizer, contents: list[str], name: str
) -> None:
    """Sampling continues exactly the ids that training saw, at every assistant turn."""
    template = TEMPLATES[name]
    messages = chat(*contents)
    whole, _ = encode_chat(tiny_tokenizer, template, messages)
    for i in range(1, len(messages), 2):
        prompt = encode_prompt(tiny_tokenizer, template, messages[:i])
        said = messages[i]["content"]
        answer = tiny_tokenizer.encode(said.strip() if template is LINES else said)
        assert whole[: len(prompt) + len(answer)] == prompt + answer
        assert whole[len(prompt) + len(answer)] in stop_ids(tiny_tokenizer, template)


def test_marker_completed_by_the_template_is_no_marker(tiny_tokenizer: Tokenizer) -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% if m.role == 'user' %}<{{ m.content }}|end|>{% else %}"
        "<|assistant|>{{ m.content }}<|end|>{% endif %}{% endfor %}" + OPENER
    )
    end = tiny_tokenizer.specials["<|end|>"]
    for content in ("|user|>", "x <", "<"):
        ids, _ = encode_chat(tiny_tokenizer, template, chat(content, "yes"))
        assert ids.count(end) == 1
        assert tiny_tokenizer.specials["<|user|>"] not in ids
        assert tiny_tokenizer.decode(ids, specials=True) == f"<s><{content}|end|><|assistant|>yes<|end|>"


def test_begin_token_is_added_once(tiny_tokenizer: Tokenizer) -> None:
    for template in TEMPLATES.values():
        ids, mask = encode_chat(tiny_tokenizer, template, chat("a", "b"))
        assert ids.count(tiny_tokenizer.bos_id) == 1
        assert ids[0] == tiny_tokenizer.bos_id
        assert not mask[0]


def test_stop_ids(tiny_tokenizer: Tokenizer) -> None:
    end = tiny_tokenizer.specials["<|end|>"]
    assert stop_ids(tiny_tokenizer, DEFAULT) == (tiny_tokenizer.eos_id, end)
    assert stop_ids(tiny_tokenizer, ENDS) == (tiny_tokenizer.eos_id,)


UNCERTAIN = {
    "adds words to the answer": "{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.role }}: {{ m.content }}<|end|>{% endfor %}" + OPENER,
    "drops earlier answers": "{% for m in messages %}{% if m.role == 'user' or loop.last %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}" + OPENER,
    "has no generation prompt": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
    "does not close the turn": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}" + OPENER,
    "upper-cases the answer": DEFAULT_TEMPLATE.replace("message['content']", "message['content'] | upper"),
}


@pytest.mark.parametrize("source", UNCERTAIN.values(), ids=UNCERTAIN)
def test_template_whose_mask_is_uncertain_is_refused_by_turn(tiny_tokenizer: Tokenizer, source: str) -> None:
    with pytest.raises(InputError, match=r'field "messages\[\d\]": the chat template'):
        encode_chat(tiny_tokenizer, ChatTemplate(source), chat("q", "a", "q", "b"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ok\n{% if %}", "chat template:2: "),
        ("{{ messages[9].content.x }}", "chat template: "),
        ("{{ 1 / 0 }}", "chat template: division by zero"),
        ("{{ 1 + 'a' }}", "chat template: "),
        ("{{ ''.__class__.__mro__ }}", "chat template: access to attribute '__class__' .* is unsafe"),
        ("{{ messages.append(1) }}", "chat template: "),
        ("{{ raise_exception('roles must alternate') }}", "chat template: roles must alternate"),
    ],
)
def test_broken_or_unsafe_template_is_refused(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ChatTemplate(source).render(chat("a", "b"))


def test_hash_is_of_the_source() -> None:
    assert ChatTemplate().sha256 == ChatTemplate(DEFAULT_TEMPLATE).sha256 != LINES.sha256
    assert re.fullmatch("[0-9a-f]{64}", LINES.sha256)


def test_render_is_for_reading() -> None:
    assert (
        DEFAULT.render(chat("q", "a"), add_generation_prompt=True)
        == "<|user|>q<|end|><|assistant|>a<|end|><|assistant|>"
    )
