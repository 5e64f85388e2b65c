"""Shared by the tests of chat templates: a small tokenizer.json, and the comparison with transformers' renderings."""

import json
import re
import unicodedata
from pathlib import Path

import tokenizers
from template_table import CONVERSATIONS, spoken
from tokenizers import decoders, models, pre_tokenizers, trainers

from msm_jax.data.config import ChatConfig
from msm_jax.data.encoding import encode_chat, encode_prompt, training_examples
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

TEMPLATES = Path(__file__).parent / "templates"
SMALL = ("smollm2", "qwen2_5", "qwen3", "llama_like", "llama_like_marked")
SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

TOOLS = {name for name, (_, tools, _) in CONVERSATIONS.items() if tools}
REASONING = {
    name for name, (messages, _, _) in CONVERSATIONS.items() if any("reasoning_content" in m for m in messages)
}
# Refused by name, since the template leaves out tools, thinking, or what stands beside a tool call. "two answers":
# Qwen3 writes the first of two turns in a row in another way once the second is there.
REFUSED_WITHOUT_THINKING = {
    "smollm2": TOOLS,
    "llama_like": TOOLS,
    "llama_like_marked": TOOLS,
    "llama3_training": TOOLS,
    "llama3_1": {"two tool calls", "words and a tool call"},
    "qwen2_5": set(),
    "qwen2_5_training": set(),
    "qwen3": {"two answers"},
    "qwen3_training": set(),
}
REFUSED = {
    name: refused | (set() if name.startswith("qwen3") else REASONING)
    for name, refused in REFUSED_WITHOUT_THINKING.items()
}


def byte_level(texts, vocab_size=600):
    """A byte-level BPE of the `tokenizers` package with the special tokens of the small templates."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(piece, special=True) for piece in SPECIALS])
    backend.add_tokens([tokenizers.AddedToken(piece, special=False) for piece in ADDED])
    return backend


def small_files(backend, template):
    """The files of a model with that tokenizer and one of the templates of this folder."""
    llama = template.startswith("llama")
    config = {
        "bos_token": "<|begin_of_text|>" if llama else None,
        "eos_token": "<|eot_id|>" if llama else "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {
        "tokenizer.json": backend.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "chat_template.jinja": (TEMPLATES / f"{template}.jinja").read_bytes(),
    }


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
    """Returns whether a token reaches from a prompt into the answer, so that sampling never sees it."""
    return any(
        rendering["text"].startswith(prompt["text"]) and rendering["ids"][: len(prompt["ids"])] != prompt["ids"]
        for prompt in prompts
    )


def nfc(text):
    return unicodedata.normalize("NFC", text)


def refused(tokenizer, template, conversation, config):
    """Returns the message with which the chat is refused, or ""."""
    messages, tools, _ = CONVERSATIONS[conversation]
    try:
        training_examples(tokenizer, template, messages, tools, config)
    except InputError as error:
        return str(error)
    return ""


def check(name: str, tokenizer: Tokenizer, source: str, conversation: str, theirs) -> str:
    """Compares one conversation; returns how it ended: "equal", "cut", "refused" or "refused by both".

    `theirs` holds transformers' renderings, each with text, ids and offsets, or an error.
    """
    messages, tools, variables = CONVERSATIONS[conversation]
    template = ChatTemplate(source, variables)
    prompts = list(theirs["prompts"].values())
    if any("error" in rendering for rendering in [theirs["whole"], *prompts, *theirs["turns"].values()]):
        assert refused(tokenizer, template, conversation, ChatConfig())
        return "refused by both"
    assert template.render(messages, tools=tools, **tokenizer.named_specials) == theirs["whole"]["text"]
    for i, prompt in theirs["prompts"].items():
        if not straddled(prompt, prompts):
            assert encode_prompt(tokenizer, template, messages[: int(i)], tools) == prompt["ids"]
    config = ChatConfig()
    if conversation in REFUSED[name]:
        assert "the chat template" in refused(tokenizer, template, conversation, config)
        config = ChatConfig(thinking="strip")
        if conversation in REFUSED_WITHOUT_THINKING[name]:
            assert "the chat template" in refused(tokenizer, template, conversation, config)
            return "refused"
    ours = training_examples(tokenizer, template, messages, tools, config)
    expected = examples_of(theirs, name, variables)
    assert len(ours) == len(expected)
    outcome = "equal"
    for (ids, mask), (rendering, spans) in zip(ours, expected, strict=True):
        said = [i for i, loss in zip(ids, mask, strict=True) if loss]
        # Qwen's tokenizer composes accents.
        assert nfc(tokenizer.decode(said, specials=True)) == nfc("".join(rendering["text"][a:b] for a, b in spans))
        assert nfc(tokenizer.decode(ids, specials=True)) == nfc(rendering["text"])
        before = [prompt for prompt in prompts if rendering["text"].startswith(prompt["text"])]
        for prompt in before:
            assert ids[: len(prompt["ids"])] == prompt["ids"]
        if straddled(rendering, before):
            outcome = "cut"
            continue
        assert ids == rendering["ids"]
        assert mask == mask_of(rendering, spans)
        if "marked" in rendering:
            # transformers marks all that the blocks hold: white space around the turn, thinking of the prompt.
            marked = [bool(loss) for loss in rendering["marked"]]
            outside = [i for i, loss, mark in zip(ids, mask, marked, strict=True) if mark and not loss]
            assert all(mark for mark, loss in zip(marked, mask, strict=True) if loss)
            assert not re.sub("</?think>", "", tokenizer.decode(outside)).strip()
    if len(expected[0][1]) == len(theirs["turns"]) and expected[0][0] is theirs["whole"]:
        assert ours == [encode_chat(tokenizer, template, messages, tools, config.thinking)]
    return outcome
