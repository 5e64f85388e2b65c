"""show_batch: the batch of any step as text, with the tokens that carry loss marked."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from chat_checks import byte_level, small_files
from template_table import CLOCK, call

from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.data.loader import Loader
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.show_batch import rows_as_text

CONFIG = """
import ml_collections


def get_config(arg=""):
    return ml_collections.ConfigDict({{
        "name": "shown", "seed": 1, "steps": 5, "batch_rows": 4,
        "preset": "mini-0.3m", "tokenizer": "{tokenizer}",
        "optimizer": {{"learning_rate": 1e-3}},
        "data": {{
            "seq_len": 32,
            "sources": {{"docs": {{"path": "{docs}"}}, "chats": {{"path": "{chats}", "kind": "chats"}}}},
            "weights": {{"docs": 0.5, "chats": 0.5}},
        }},
    }})
"""


@pytest.fixture
def config(tiny_tokenizer: Tokenizer, tiny_corpus: list[str], tmp_path: Path) -> Path:
    rng = random.Random(0)
    docs, chats, tokenizer = tmp_path / "docs.jsonl", tmp_path / "chats.jsonl", tmp_path / "tokenizer"
    docs.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_corpus))
    with chats.open("w") as f:
        for _ in range(30):
            messages = [
                {"role": "user", "content": "Ada?"},
                {"role": "assistant", "content": rng.choice(["old", "new"])},
            ]
            f.write(json.dumps({"messages": messages}) + "\n")
    tokenizer.mkdir()
    for name, content in tiny_tokenizer.files().items():
        (tokenizer / name).write_bytes(content)
    file = tmp_path / "phase.py"
    file.write_text(CONFIG.format(tokenizer=tokenizer, docs=docs, chats=chats))
    return file


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "msm_jax.show_batch", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prints_shares_rows_and_marks(config: Path) -> None:
    url = f"--workdir=file://{config.parent}/run"  # where there is nothing yet
    done = run(f"--config={config}", "--step=3", "--rows=4", "--config.seed=2", url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("shown, step 3 of 5: 4 rows of 32 slots; tokenizer ")
    assert f"chat template {ChatTemplate().sha256[:12]}" in lines[0]
    assert [line for line in lines if line.startswith("row ")] == [
        line for line in lines if " segments, " in line
    ]
    assert sum(line.startswith("row ") for line in lines) == 4
    chats = [line for line in lines if "<|user|>" in line]
    assert chats
    assert all(
        line.startswith("<s><|user|>Ada?<|end|><|assistant|>[[") and line.endswith("<|end|>]]")
        for line in chats
    )
    assert f"1. {config.parent}/docs.jsonl:" in done.stdout
    assert any(line.startswith("5 steps read chats ") for line in lines), "what the phase reads by its end"


def test_a_model_with_its_own_template(config: Path, tiny_corpus: list[str], tmp_path: Path) -> None:
    """The rendered chat of a Hugging Face tokenizer, its mask and the template's hash."""
    tokenizer, chats = tmp_path / "qwen", tmp_path / "tools.jsonl"
    tokenizer.mkdir()
    files = small_files(byte_level(tiny_corpus), "qwen3")
    for name, content in files.items():
        (tokenizer / name).write_bytes(content)
    messages = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [call("clock")]},
        {"role": "tool", "content": "9"},
        {"role": "assistant", "content": "Nine."},
    ]
    chats.write_text(json.dumps({"messages": messages, "tools": [CLOCK]}) + "\n")
    done = run(
        f"--config={config}",
        f"--config.tokenizer={tokenizer}",
        f"--config.data.sources.chats.path={chats}",
        *("--config.data.seq_len=600", "--config.batch_rows=2", "--config.preset=mini-1m"),
    )
    assert done.returncode == 0, done.stderr
    assert f"chat template {ChatTemplate(files['chat_template.jinja'].decode()).sha256[:12]}" in done.stdout
    turns = [
        '[[<think>\nLook.\n</think>\n\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call><|im_end|>]]',
        "<tool_response>\n9\n</tool_response><|im_end|>",
        "[[<think>\n\n</think>\n\nNine.<|im_end|>]]",
    ]
    assert all(turn in done.stdout for turn in turns)
    assert '{"type": "function", "function": {"name": "clock"' in done.stdout


def test_refusals_are_one_line(config: Path) -> None:
    for flag, message in (
        ("--step=-1", "refused: --step=-1: use a number from 0 up"),
        ("--config.data.seq_len=8", 'field "messages" takes'),
    ):
        done = run(f"--config={config}", flag)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_text_is_that_of_the_documents(
    tiny_tokenizer: Tokenizer, tiny_corpus: list[str], tmp_path: Path
) -> None:
    """Chunks of a document, in the order of the document, spell it out; all but its begin carries loss."""
    file = tmp_path / "docs.jsonl"
    text = " ".join(tiny_corpus[:10])
    file.write_text(json.dumps({"text": text}))
    config = DataConfig(16, {"docs": SourceConfig(str(file))}, {"docs": 1.0})
    loader = Loader(config, tiny_tokenizer, ChatTemplate(), 1, 0, tmp_path)
    rows = loader.describe(0)["sources"]["docs"]["rows_per_epoch"]
    shown = [rows_as_text(loader, tiny_tokenizer, step, 1, coloured=False)[-1].plain for step in range(rows)]
    whole = f"<s>{text}</s>"
    # The first token of a chunk is input alone: it was a target in the chunk before.
    loss = sorted((part.partition("[[")[2].removesuffix("]]") for part in shown), key=whole.index)
    assert "".join(loss) == f"{text}</s>"
    coloured = rows_as_text(loader, tiny_tokenizer, 0, 1, coloured=True)[-1]
    assert coloured.plain == shown[0].replace("[[", "").replace("]]", "")
    assert {span.style for span in coloured.spans} == {"green"}
