"""Preference pairs from a spec: better in both orders, in the form that training reads, the same after a stop."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import synthesis_small
from rich.console import Console

from configs import dpo
from msm_jax.data import sources
from msm_jax.data.config import DataConfig
from msm_jax.data.loader import Loader
from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.show_batch import rows_as_text
from msm_jax.specs import prose
from msm_jax.synthesis import chat_preview, generation, pairs, pipeline, rounds
from msm_jax.synthesis.chat_config import PairsConfig
from msm_jax.synthesis.quality.parts import row_of
from msm_jax.synthesis.scripted import chats


def settings_of(path: Path, writer: dict[str, Any] | None = None, **fields: Any) -> PairsConfig:
    """Returns settings of 12 pairs, with some of them changed: `plan={"samples": 5}`."""
    given: dict[str, Any] = {
        "spec": {"path": str(path), "assistant": "Iris", "provider": "Northwind Labs"},
        "writer": {"model": "python:synthesis_writer:opened", "arguments": writer or {}},
        "plan": {"samples": 12, "questions_per_domain": 4, "questions_per_call": 3},
        "reply": {"words": 200, "reasoning_tokens": 0, "text_tokens": 600},
        "gates": None,
    }
    for name, value in fields.items():
        given[name] = {**(given.get(name) or {}), **value} if isinstance(value, dict) else value
    return settings.build(PairsConfig, given)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The small spec in a file."""
    path = tmp_path / "spec.md"
    path.write_text(synthesis_small.SPEC)
    return path


def generate(config: PairsConfig, directory: Path) -> dict[str, Any]:
    """Runs the pipeline and returns its result."""
    return rounds.run(pairs.PRODUCT, config, directory, directory / pipeline.JOURNAL, lambda progress: None)


def rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_rival(text: str) -> bool:
    """Returns whether the scripted writer means a text to be worse."""
    return any(mark in text for mark in chats._MARKS)


def test_pairs_are_read_by_training_and_the_better_answer_won_in_both_orders(spec, tmp_path):
    result = generate(settings_of(spec, plan={"samples": 60}), tmp_path / "out")
    found = rows(tmp_path / "out" / pairs.PAIRS)
    assert len(found) == result["written"]["pairs"] == 60
    assert len(list(sources.iter_pairs(str(tmp_path / "out" / pairs.PAIRS)))) == 60
    for row in found:
        assert row["messages"][-1]["role"] == "user" and row["meta"]["spec_sha256"]
        assert not is_rival(row["chosen"])
    # A judge that errs in one vote of twenty-five errs twice about a pair in one of six hundred.
    assert sum(is_rival(row["rejected"]) for row in found) >= 59
    shares = [sum(row["meta"]["rival"] == name for row in found) for name in ("plain", "reasons", "contrary")]
    assert min(shares) >= 12, "each way to fall short has its share"


def test_pairs_about_which_the_judge_errs_are_dropped_with_the_reason(spec, tmp_path):
    result = generate(settings_of(spec, plan={"samples": 60}), tmp_path / "out")
    dropped = rows(tmp_path / "out" / pipeline.DROPPED)
    compared = [row for row in dropped if row["stage"] == "compare"]
    assert result["dropped"]["order_decides"] == sum(row["reason"] == "order_decides" for row in compared) > 0
    assert all("Rival: " in row["reply"] and "in one order" in row["detail"] for row in compared)
    assert result["dropped"]["judged"] > 0 and result["answered"] - len(dropped) >= 60


def test_a_run_that_stops_anywhere_continues_to_the_same_files_and_asks_nothing_again(spec, tmp_path):
    names = (pairs.PAIRS, pipeline.DROPPED)
    synthesis_small.check_stops_change_nothing(
        generate, lambda writer: settings_of(spec, writer), (3, 20, 31, 7), names, tmp_path
    )


def test_spoilt_replies_are_asked_for_again_and_never_kept(spec, tmp_path):
    faults = {"faults": ["empty", "refused", "cut", "no_tags", "prose", "bad_element"], "share": 0.3}
    result = generate(settings_of(spec, faults), tmp_path / "out")
    text = (tmp_path / "out" / pairs.PAIRS).read_text()
    assert result["written"]["pairs"] == 12 and any(name.startswith("rival/") for name in result["unusable_replies"])
    assert "<content>" not in text and "sorry" not in text


def test_answers_that_think_are_messages_and_turns_before_the_last_are_the_prompt(spec, tmp_path):
    generate(settings_of(spec, plan={"turns": 2, "samples": 4}, reply={"reasoning_tokens": 100}), tmp_path / "out")
    for row in rows(tmp_path / "out" / pairs.PAIRS):
        assert [each["role"] for each in row["messages"]] == ["user", "assistant", "user"]
        for (answer,) in (row["chosen"], row["rejected"]):
            assert answer["role"] == "assistant" and answer["content"] and answer["reasoning_content"]
    assert len(list(sources.iter_pairs(str(tmp_path / "out" / pairs.PAIRS)))) == 4


def test_an_opaque_pair_states_one_preference_and_the_other(spec, tmp_path):
    generate(settings_of(spec, reply={"style": "opaque"}, rivals=["other"]), tmp_path / "out")
    found = rows(tmp_path / "out" / pairs.PAIRS)
    assert len(found) == 12
    assert not any(re.search("because|sensible", row["chosen"]) for row in found)
    assert all(row["chosen"].lower() != row["rejected"].lower() for row in found)


def test_gates_read_both_answers_and_remove_a_pair_with_another_models_name(spec, tmp_path):
    row = {"messages": [{"role": "user", "content": "Q?"}], "chosen": "A.", "rejected": [
        {"role": "assistant", "content": "B.", "reasoning_content": "C."}], "meta": {"id": "x"}}  # fmt: skip
    assert list(row_of(row, 0).parts) == [
        ("user", "Q?"), ("assistant", "A."), ("thinking", "C."), ("assistant", "B.")]  # fmt: skip
    gates = {"embeddings": None, "min_words": 5, "stop": {}, "actions": {"near_duplicate": "off"}}
    config = settings_of(spec, {"faults": ["another_name"], "share": 0.2}, gates=gates)
    result = generate(config, tmp_path / "out")
    assert result["kept"]["pairs"] == len(rows(tmp_path / "out" / pairs.PAIRS))
    assert result["kept"]["pairs"] + len(rows(tmp_path / "out" / "flagged.jsonl")) == result["written"]["pairs"]
    assert "Qwen" not in (tmp_path / "out" / pairs.PAIRS).read_text()


def test_a_batch_of_the_dpo_config_shows_the_pairs(spec, tiny_tokenizer, tmp_path):
    generate(settings_of(spec), tmp_path / "out")
    config = dpo.get_config("a checkpoint")
    config.data.sources.pairs.path = str(tmp_path / "out" / pairs.PAIRS)
    config.data.seq_len = 4096
    data = settings.build(DataConfig, settings.plain(config)["data"])
    loader = Loader(data, tiny_tokenizer, ChatTemplate(), 2, 0, tmp_path)
    shown = "\n".join(text.plain for text in rows_as_text(loader, tiny_tokenizer, 0, 2, coloured=False))
    first = next(row for row in rows(tmp_path / "out" / pairs.PAIRS) if row["chosen"] in shown)
    assert first["rejected"] in shown
    assert shown.count("(chosen)") == shown.count("(rejected)") > 0


@pytest.mark.parametrize(("rivals", "problem"), [
    (["plane"], "rivals: 'plane' is unknown; .*plain"),
    ([], "must name at least one way to fall short"),
    (["plain", "plain"], "each once; choose from plain, reasons, contrary, other"),
])  # fmt: skip
def test_rivals_that_cannot_work_are_refused(spec, rivals, problem):
    with pytest.raises(InputError, match=problem):
        settings_of(spec, rivals=rivals)


def test_the_preview_counts_what_a_run_makes(spec):
    config = settings_of(spec, plan={"samples": 64})
    found = chat_preview.of(config, prose.read(spec, config.spec.values))
    calls = {stage.name: stage.calls for stage in found.stages}
    assert (calls["response"], calls["judge"], calls["rival"], calls["compare"]) == (100, 200, 80, 160)
    assert found.documents == 64


def test_the_config_of_pairs_is_built_and_its_plan_is_shown():
    config = runpy.run_path("configs/synthesis/pairs.py")["get_config"]()
    kind, built = generation.build(config)
    assert isinstance(built, PairsConfig) and built.reply.reasoning_tokens == 0
    console = Console(record=True, width=200)
    console.print(kind.preview(built, pipeline.read_spec(built.spec)))
    assert re.search(r"^rival +250 ", console.export_text(), re.MULTILINE)
