"""Chats are rendered, encoded and masked as transformers does, over real templates and their tokenizers.

`MSM_JAX_TEMPLATES` names the folder that `make parity-templates` fetches them into; docs/parity_templates.md holds the
last result.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from template_table import CONVERSATIONS, spoken

from msm_jax.data.config import ChatConfig
from msm_jax.data.templates import ChatTemplate, encode_chat, encode_prompt, find_source, training_examples
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

SCRIPT = Path(__file__).parent / "parity_templates.py"
TEMPLATES = (
    "smollm2", "qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training", "llama3_training", "llama3_1",
)

# What a template leaves out of an assistant turn, so that it is refused: tool calls, thinking, what stands beside them.
NO_CALLS = {name for name, (messages, _, _) in CONVERSATIONS.items() if any("tool_calls" in m for m in messages)}
REASONING = {
    name for name, (messages, _, _) in CONVERSATIONS.items() if any("reasoning_content" in m for m in messages)
}
REFUSED = {
    "smollm2": NO_CALLS | REASONING,
    "qwen2_5": REASONING,
    "qwen2_5_training": REASONING,
    "qwen3": set(),
    "qwen3_training": set(),
    "llama3_training": NO_CALLS | REASONING,
    "llama3_1": REASONING | {"two tool calls", "words and a tool call"},
}


@pytest.fixture(scope="module")
def folder() -> Path:
    directory = os.environ.get("MSM_JAX_TEMPLATES", "")
    if not directory:
        pytest.skip("MSM_JAX_TEMPLATES is not set; `make parity-templates` fetches the templates")
    return Path(directory)


@pytest.fixture(scope="module")
def reference(folder, ref_python, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "chats.json"
    subprocess.run([ref_python, str(SCRIPT), str(folder), str(out)], check=True)
    return json.loads(out.read_text())


@pytest.fixture(scope="module", params=TEMPLATES)
def case(request, folder, reference):
    name = request.param
    if name not in reference:
        pytest.skip(f"{folder} has no {name}")
    files = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
    return name, Tokenizer.from_files(files), find_source(files), reference[name]


def examples_of(theirs, template, variables):
    """[(rendering, [spans that carry loss])]: each turn once, where it stands as it did when it was said."""
    turns = {int(i): rendered for i, rendered in theirs["turns"].items()}
    spans = {i: spoken(rendered["text"], template, variables)[-1] for i, rendered in turns.items()}
    left, rendering, found = sorted(turns), theirs["whole"], []
    while left:
        here = [i for i in left if rendering["text"].startswith(turns[i]["text"][: spans[i][1]])]
        if here:
            found.append((rendering, [spans[i] for i in here]))
        left = [i for i in left if i not in here]
        rendering = turns[left[-1]] if left else None
    return found[::-1]


def mask_of(rendering, spans):
    """Per token of transformers: whether it lies in one of the spans of characters."""
    return [any(a <= start and end <= b for a, b in spans) for start, end in rendering["offsets"]]


def straddled(rendering, prompts):
    """Whether a token of the whole chat reaches from a prompt into the answer, so that sampling never meets it."""
    return any(
        rendering["text"].startswith(prompt["text"]) and rendering["ids"][: len(prompt["ids"])] != prompt["ids"]
        for prompt in prompts
    )


@pytest.mark.parity
def test_documents_have_the_ids_of_transformers(case):
    _, tokenizer, _, theirs = case
    for name, (text, ids) in theirs["documents"].items():
        document = tokenizer.document(tokenizer.encode(text))
        assert document[:-1] == ids, name
        assert document[-1] == tokenizer.document_end_id


@pytest.mark.parity
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_chats_equal_transformers(case, conversation):
    template_name, tokenizer, source, reference = case
    messages, tools, variables = CONVERSATIONS[conversation]
    theirs = reference["chats"][conversation]
    template = ChatTemplate(source, variables)
    renderings = [theirs["whole"], *theirs["prompts"].values(), *theirs["turns"].values()]
    if any("error" in rendering for rendering in renderings):
        with pytest.raises(InputError):
            encode_chat(tokenizer, template, messages, tools)
        return
    assert template.render(messages, tools=tools, **tokenizer.named_specials) == theirs["whole"]["text"]
    for i, prompt in theirs["prompts"].items():
        if not straddled(prompt, theirs["prompts"].values()):
            assert encode_prompt(tokenizer, template, messages[: int(i)], tools) == prompt["ids"]
    config = ChatConfig(variables=variables)
    if conversation in REFUSED[template_name]:
        with pytest.raises(InputError, match="the chat template"):
            training_examples(tokenizer, template, messages, tools, config)
        if conversation in NO_CALLS and template_name != "llama3_1" or conversation not in REASONING:
            return
        config = ChatConfig(thinking="strip", variables=variables)
        if conversation in NO_CALLS and template_name == "llama3_1" and conversation == "words and a tool call":
            return
    ours = training_examples(tokenizer, template, messages, tools, config)
    expected = examples_of(theirs, template_name, variables)
    assert len(ours) == len(expected)
    for (ids, mask), (rendering, spans) in zip(ours, expected, strict=True):
        prompts = [p for p in theirs["prompts"].values() if rendering["text"].startswith(p["text"])]
        for prompt in prompts:
            assert ids[: len(prompt["ids"])] == prompt["ids"]
        if straddled(rendering, prompts):
            assert tokenizer.decode(ids, specials=True) == rendering["text"]
            assert tokenizer.decode([i for i, loss in zip(ids, mask, strict=True) if loss], specials=True) == "".join(
                rendering["text"][a:b] for a, b in spans
            )
            continue
        assert ids == rendering["ids"]
        assert mask == mask_of(rendering, spans)
        if "marked" in rendering:
            # transformers marks what the blocks do, white space before and after the turn too.
            marked = [bool(loss) for loss in rendering["marked"]]
            outside = [i for i, loss, mark in zip(ids, mask, marked, strict=True) if mark and not loss]
            assert all(mark for mark, loss in zip(marked, mask, strict=True) if loss)
            assert not tokenizer.decode(outside).strip()
