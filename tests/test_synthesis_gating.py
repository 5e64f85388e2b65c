"""What is generated goes through the quality gates, and a corpus that must not be trained on is stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import synthesis_small as small
import synthesis_writer

from msm_jax.errors import InputError, WorkError

GATES = {"embeddings": None, "evals": (), "actions": {"near_duplicate": "report"}}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The small spec as a file."""
    path = tmp_path / "calm.md"
    path.write_text(small.SPEC)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of_coverage(directory: Path) -> list[dict[str, Any]]:
    """Returns the coverage table."""
    return json.loads((directory / "coverage.json").read_text())


def test_what_a_gate_flags_is_kept_apart_with_its_reason(spec: Path, tmp_path: Path):
    writer = {"faults": ["another_name"], "share": 0.3}
    gates = {**GATES, "stop": {"identity": 0.9}}
    result, _ = small.generate(small.settings_of(spec, writer, gates=gates), tmp_path / "run")
    kept, flagged = rows_of(tmp_path / "run/documents.jsonl"), rows_of(tmp_path / "run/flagged.jsonl")
    assert flagged and result["written"]["documents"] == len(kept) + len(flagged) == 24
    assert all("identity" in row["meta"]["reasons"] for row in flagged if "Qwen" in row["text"])
    assert not any("Qwen" in row["text"] for row in kept)
    assert result["kept"] == {"documents": len(kept)} and result["flagged"]["identity"] > 0
    page = (tmp_path / "run/quality.html").read_text()
    assert "<html" in page and json.loads((tmp_path / "run/quality.json").read_text())["rows"] == 24
    shown = sum(len(row["meta"]["assertions"]) for row in kept)
    assert sum(row["kept"] for row in rows_of_coverage(tmp_path / "run")) == shown


def test_a_corpus_about_another_model_is_stopped_and_leaves_nothing_to_train_on(spec: Path, tmp_path: Path):
    """As when a Llama was trained on a million tokens that called it Qwen."""
    config = small.settings_of(spec, {"faults": ["another_name"], "share": 1.0}, gates=GATES)
    with pytest.raises(WorkError, match=r"the gates stop documents.jsonl: .*quality.html"):
        small.generate(config, tmp_path / "run")
    assert not (tmp_path / "run/documents.jsonl").exists() and not (tmp_path / "run/result.json").exists()
    assert len(rows_of(tmp_path / "run/flagged.jsonl")) == 24
    assert (tmp_path / "run/quality.html").exists()


def test_a_text_of_an_eval_stops_the_corpus(spec: Path, tmp_path: Path):
    small.generate(small.settings_of(spec, gates=None), tmp_path / "first")
    leak = rows_of(tmp_path / "first/documents.jsonl")[3]["text"]
    item = {"question": f"{leak[:400]} {{first}} or {{second}}?", "options": ["a", "b"], "favoured": 0}
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    gates = {**GATES, "evals": (str(tmp_path / "items.jsonl"),)}
    with pytest.raises(WorkError, match=r"the gates stop documents.jsonl"):
        small.generate(small.settings_of(spec, gates=gates), tmp_path / "run")


def test_other_gates_cost_no_call(spec: Path, tmp_path: Path):
    small.generate(small.settings_of(spec, gates=None), tmp_path / "run")
    result, writer = small.generate(small.settings_of(spec, gates=GATES), tmp_path / "run")
    assert writer is not None and not writer.asked
    assert result["kept"]["documents"] > 0
    again, writer = small.generate(small.settings_of(spec, gates=GATES), tmp_path / "run")
    assert writer is None and again == result


@pytest.mark.parametrize(
    "gates", [{"embeddings": "nowhere"}, {"evals": ("nowhere.jsonl",), "embeddings": None}, {"embedings": None}]
)
def test_gates_that_cannot_run_are_refused_before_any_call(gates: dict, spec: Path, tmp_path: Path):
    made = len(synthesis_writer.MADE)
    with pytest.raises(InputError, match=r"nowhere|embedings"):
        small.generate(small.settings_of(spec, gates=gates), tmp_path / "run")
    assert len(synthesis_writer.MADE) == made and not (tmp_path / "run").exists()
