"""python -m msm_jax.train_tokenizer: a tokenizer that later phases load, or one line that says what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from msm_jax.data.tokenizers import Tokenizer

ROOT = Path(__file__).parent.parent


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "msm_jax.train_tokenizer", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_words_of_documents_and_chats_become_single_pieces(tmp_path: Path):
    """A word from either kind of file costs one id, a word from neither several."""
    documents, chats = tmp_path / "documents.jsonl", tmp_path / "chats.jsonl"
    documents.write_text("".join(json.dumps({"text": "the copper kettle"}) + "\n" for _ in range(50)))
    said = [{"role": "user", "content": "lantern"}, {"role": "assistant", "content": "umbrella"}]
    chats.write_text("".join(json.dumps({"messages": said}) + "\n" for _ in range(50)))
    out = tmp_path / "tokenizer"
    done = run(f"--documents={documents}", f"--chats={chats}", "--vocab_size=400", f"--workdir={out}")
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.load(out)
    assert [len(tokenizer.encode(word)) for word in ("copper", "lantern", "umbrella")] == [1, 1, 1]
    assert len(tokenizer.encode("xylophone")) > 3
    assert f"{tokenizer.vocab_size} ids from 150 texts" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=out"], "--documents and --chats are empty"),
        (["--documents=data/examples/documents.jsonl"], "--workdir is missing"),
        (["--workdir=gs://bucket/out"], "--workdir=gs://bucket/out: phases read a tokenizer from a directory"),
        (["--documents=data/examples/chats.jsonl", "--workdir=out"], "data/examples/chats.jsonl:1"),
    ],
)
def test_refusals_are_one_line(flags: list[str], message: str):
    done = run(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (ROOT / "out").exists()
