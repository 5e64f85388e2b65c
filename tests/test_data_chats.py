"""Chats with real templates, compared with transformers' renderings (tests/templates/rendered.json)."""

import json
from pathlib import Path

import pytest
from chat_checks import SMALL, byte_level, check, small_files

from msm_jax.data.templates import find_source
from msm_jax.data.tokenizers import Tokenizer

STORED = json.loads((Path(__file__).parent / "templates" / "rendered.json").read_text())


@pytest.fixture(scope="module")
def backend(tiny_corpus):
    return byte_level(tiny_corpus)


def encoded(backend, text):
    """A stored rendering with ids and offsets, which the `tokenizers` package gives as transformers does."""
    if text is None:
        return {"error": "refused"}
    encoding = backend.encode(text, add_special_tokens=False)
    return {"text": text, "ids": encoding.ids, "offsets": encoding.offsets}


@pytest.mark.parametrize("name", SMALL)
def test_ids_and_masks(backend, name):
    files = small_files(backend, name)
    tokenizer, source = Tokenizer.from_files(files), find_source(files)
    outcomes = set()
    for conversation, stored in STORED[name].items():
        theirs = {
            "whole": encoded(backend, stored["whole"]),
            "prompts": {i: encoded(backend, text) for i, text in stored["prompts"].items()},
            "turns": {i: encoded(backend, text) for i, text in stored["turns"].items()},
        }
        outcomes.add(check(name, tokenizer, source, conversation, theirs))
    assert "equal" in outcomes
