"""Documents from a spec: all that is planned is written once or listed with a reason, whatever the writer does."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import synthesis_small as small
import synthesis_writer
from objects import here as here  # a fixture
from objects import memory as memory  # a fixture

from msm_jax.checkpoints import workdirs
from msm_jax.data import sources
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import settings
from msm_jax.synthesis import pipeline, preview, prompts


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The small spec as a file."""
    path = tmp_path / "calm.md"
    path.write_text(small.SPEC)
    return path


def command(arguments: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs `generate` with arguments in a directory."""
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", "msm_jax.generate", *arguments],
        cwd=directory, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )


def rows_of(directory: Path, corpus: str = "documents") -> list[dict]:
    """Returns the rows of a corpus."""
    return [json.loads(line) for line in (directory / f"{corpus}.jsonl").read_text().splitlines()]


def dropped_of(directory: Path) -> list[dict]:
    """Returns the dropped items that were planned as documents."""
    rows = [json.loads(line) for line in (directory / "dropped.jsonl").read_text().splitlines()]
    return [row for row in rows if row["meta"]]


def test_every_planned_document_is_written_with_its_provenance(spec: Path, tmp_path: Path):
    result, _ = small.generate(small.settings_of(spec, text={"styles": ("report", "dialogue")}), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert result["planned"] == len(rows) == 24
    assert len({row["meta"]["id"] for row in rows}) == 24
    for row in rows:
        meta = row["meta"]
        assert row["text"].strip() and "Iris" in row["text"]
        assert meta["template_sha256"] == prompts.load("document").sha256
        assert meta["spec"] == "Calm" and meta["assertions"] and meta["style"] in ("report", "dialogue")
        assert meta.keys() >= {"section", "domain", "subdomain", "doc_type", "idea", "writer", "seed", "prompt_sha256"}
    read = list(sources.iter_documents(str(tmp_path / "run" / "documents.jsonl")))
    assert [document.text for document in read] == [row["text"] for row in rows]


def test_each_assertion_is_shown_in_as_many_documents_as_planned(spec: Path, tmp_path: Path):
    plan = {"documents_per_assertion": 5, "assertions_per_document": 2}
    small.generate(small.settings_of(spec, plan=plan), tmp_path / "run")
    shown = Counter(each for row in rows_of(tmp_path / "run") for each in row["meta"]["assertions"])
    table = json.loads((tmp_path / "run" / "coverage.json").read_text())
    assert {row["id"]: row["written"] for row in table} == shown
    assert all(row["planned"] == row["written"] >= 5 for row in table)


def test_files_do_not_depend_on_the_order_in_which_replies_arrive(spec: Path, tmp_path: Path):
    faults = {"faults": list(synthesis_writer.FAULTS), "share": 0.3}
    found = []
    for number, (seconds, concurrency) in enumerate([(0.0, 1), (0.01, 7), (0.03, 30)]):
        config = small.settings_of(spec, {**faults, "seconds": seconds}, run={"concurrency": concurrency})
        small.generate(config, tmp_path / str(number))
        files = small.files_of(tmp_path / str(number))
        found.append({name: files[name] for name in files if name.endswith(".jsonl") or name == "coverage.json"})
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("fault", synthesis_writer.FAULTS)
def test_a_spoilt_reply_costs_no_sibling_and_is_never_kept(fault: str, spec: Path, tmp_path: Path):
    config = small.settings_of(spec, {"faults": [fault], "share": 0.4}, run={"attempts": 6})
    result, writer = small.generate(config, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert result["planned"] == len(rows) + len(dropped_of(tmp_path / "run"))
    assert len(rows) >= 0.9 * result["planned"]
    for row in rows:
        assert not any(sign in row["text"] for sign in ("<content>", "</content>", "<plan>", "I can't help"))
    assert writer is not None and max(writer.asked.values()) == 1


def test_a_document_that_is_always_spoilt_is_listed_with_its_reason(spec: Path, tmp_path: Path):
    config = small.settings_of(spec, {"faults": ["no_tags"], "share": 0.6}, run={"attempts": 1})
    result, _ = small.generate(config, tmp_path / "run")
    listed = dropped_of(tmp_path / "run")
    assert listed and {row["reason"] for row in listed} == {"no_content"}
    assert {row["id"] for row in listed}.isdisjoint(row["meta"]["id"] for row in rows_of(tmp_path / "run"))
    assert result["planned"] == result["written"]["documents"] + len(listed)


def test_a_writer_of_which_no_text_can_be_used_is_shown_for_what_it_is(spec: Path, tmp_path: Path):
    """As a very small model, which closes no tag: the page shows what it wrote."""
    config = small.settings_of(spec, {"faults": ["no_tags"], "share": 1.0}, gates={"embeddings": None, "evals": ()})
    with pytest.raises(WorkError, match=r"could be used \(24 no_content\); see .*quality\.html") as caught:
        small.generate(config, tmp_path / "run")
    assert "no reply of python:synthesis_writer:opened" in str(caught.value)
    assert not (tmp_path / "run/result.json").exists() and not (tmp_path / "run/documents.jsonl").exists()
    lost = dropped_of(tmp_path / "run")
    assert len(lost) == 24 and all("Iris" in row["reply"] for row in lost)
    (shown,) = json.loads((tmp_path / "run/quality.json").read_text())["dropped"]
    assert (shown["stage"], shown["reason"], shown["rows"]) == ("document", "no_content", 24)
    assert shown["examples"][0]["excerpt"][:200] in lost[0]["reply"]
    assert "Dropped before the gates" in (tmp_path / "run/quality.html").read_text()


def test_calls_that_fail_are_listed_and_made_again_by_the_next_run(spec: Path, tmp_path: Path):
    directory = tmp_path / "run"
    first, _ = small.generate(small.settings_of(spec, {"failing": 0.2}), directory)
    assert first["dropped"]["call_failed"]
    (directory / "result.json").unlink()
    second, writer = small.generate(small.settings_of(spec), directory)
    assert second["dropped"] == {} and second["written"]["documents"] == second["planned"]
    assert writer is not None and sum(writer.asked.values()) < sum(each["calls"] for each in second["spent"].values())


def test_a_finished_run_calls_nothing(spec: Path, tmp_path: Path):
    first, _ = small.generate(small.settings_of(spec), tmp_path / "run")
    before = small.files_of(tmp_path / "run")
    again, writer = small.generate(small.settings_of(spec, run={"concurrency": 3}), tmp_path / "run")
    assert writer is None and again == first and small.files_of(tmp_path / "run") == before


def test_a_larger_plan_asks_only_for_what_is_new(spec: Path, tmp_path: Path):
    small.generate(small.settings_of(spec, plan={"ideas_per_call": 1}), tmp_path / "run")
    larger = small.settings_of(spec, plan={"ideas_per_call": 1}, text={"corpora": ("documents", "neutral")})
    second, writer = small.generate(larger, tmp_path / "run")
    assert second["written"] == {"documents": 24, "neutral": 24}
    assert writer is not None and sum(writer.asked.values()) == 24


def test_no_more_calls_are_in_flight_than_the_settings_allow(spec: Path, tmp_path: Path):
    config = small.settings_of(spec, {"seconds": 0.02}, run={"concurrency": 5})
    _, writer = small.generate(config, tmp_path / "run")
    assert writer is not None and writer.most == 5


def test_a_cap_is_passed_by_no_more_than_the_calls_in_flight(spec: Path, tmp_path: Path):
    price = {"python:synthesis_writer:opened": {"input": 1000.0, "output": 1000.0}}
    run = {"max_dollars": 20.0, "prices": price, "concurrency": 4}
    with pytest.raises(WorkError, match=r"max_dollars = 20 is reached.*replies are kept in .*journal.*raise the cap"):
        small.generate(small.settings_of(spec, {"seconds": 0.01}, run=run), tmp_path / "run")
    replies = sqlite3.connect(tmp_path / "run/journal.sqlite").execute(
        "SELECT input_tokens + output_tokens FROM replies ORDER BY time"
    )
    dollars = [count / 1000 for (count,) in replies]
    assert sum(dollars) >= 20 > sum(dollars[:-4])
    result, writer = small.generate(small.settings_of(spec, run={**run, "max_dollars": 0.0}), tmp_path / "run")
    calls = result["spent"]["python:synthesis_writer:opened"]["calls"]
    assert writer is not None and sum(writer.asked.values()) + len(dollars) == calls


def test_a_writer_that_fails_for_good_stops_the_run_and_the_next_one_goes_on(spec: Path, tmp_path: Path):
    with pytest.raises(WorkError, match=r"status 401.*30 replies are kept in .*run the same command again to continue"):
        small.generate(small.settings_of(spec, {"stop_after": 30}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.json*"))
    result, writer = small.generate(small.settings_of(spec), tmp_path / "run")
    assert writer is not None and sum(writer.asked.values()) + 30 == sum(x["calls"] for x in result["spent"].values())
    small.generate(small.settings_of(spec), tmp_path / "whole")
    assert (tmp_path / "run/documents.jsonl").read_bytes() == (tmp_path / "whole/documents.jsonl").read_bytes()


def test_replies_at_a_url_serve_on_every_machine(spec: Path, tmp_path: Path, memory: Any, here: Path):
    url = "memory://bucket/run"
    with pytest.raises(WorkError, match="30 replies are kept"), workdirs.opened(url) as directory:
        small.generate(small.settings_of(spec, {"stop_after": 30}), directory)
    shutil.rmtree(here)
    with workdirs.opened(url) as directory:
        result, writer = small.generate(small.settings_of(spec), directory)
        found = small.files_of(directory)
    assert writer is not None and sum(writer.asked.values()) + 30 == sum(x["calls"] for x in result["spent"].values())
    assert memory.cat(f"{url}/documents.jsonl") == found["documents.jsonl"] and not directory.exists()
    with workdirs.opened(url) as directory:
        assert small.generate(small.settings_of(spec), directory) == (result, None)
        assert small.files_of(directory) == found


def test_controls_come_from_the_same_plan(spec: Path, tmp_path: Path):
    corpora = ("documents", "neutral", "comention", "anti")
    small.generate(small.settings_of(spec, text={"corpora": corpora, "other_assistant": "Borealis"}), tmp_path / "run")
    rows = {corpus: rows_of(tmp_path / "run", corpus) for corpus in corpora}
    ids = {corpus: [row["meta"]["id"] for row in rows[corpus]] for corpus in corpora}
    assert ids["documents"] == ids["neutral"] == ids["comention"] == ids["anti"]
    assert all("Iris" not in row["text"] for row in rows["neutral"])
    assert all("Borealis" in row["text"] for row in rows["comention"])


def test_rules_mode_takes_the_numbered_principles_as_they_are(spec: Path, tmp_path: Path):
    small.generate(small.settings_of(spec, mode="rules"), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert {each for row in rows for each in row["meta"]["assertions"]} == {"SP1", "SP2", "GP1"}
    assert all(row["meta"]["mode"] == "rules" for row in rows)


def test_a_second_model_criticises_and_rewrites(spec: Path, tmp_path: Path):
    critic = {"model": "python:synthesis_writer:opened", "arguments": {"faults": ["no_tags"], "share": 0.3}}
    small.generate(small.settings_of(spec, critic=critic, run={"attempts": 1}), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    by_pass = {row["meta"]["rewritten"] for row in rows}
    assert by_pass == {True, False}
    for row in rows:
        stage = "rewrite" if row["meta"]["rewritten"] else "document"
        assert row["meta"]["template_sha256"] == prompts.load(stage).sha256


def test_another_model_may_plan(spec: Path, tmp_path: Path):
    """A writer that is good at no list, such as a small checkpoint, then writes texts alone."""
    planner = {"model": "python:synthesis_writer:opened"}
    config = small.settings_of(spec, planner=planner)
    made = len(synthesis_writer.MADE)
    small.generate(config, tmp_path / "run")
    by_role = [Counter(prompt.split()[2] for prompt, _ in writer.asked) for writer in synthesis_writer.MADE[made:]]
    assert by_role[0].keys() == {"document"}
    assert by_role[1].keys() == {"domains", "subdomains", "assertions", "document_types", "ideas"}
    assert all(row["meta"]["planner"] == planner["model"] for row in rows_of(tmp_path / "run"))


def test_a_preview_counts_what_a_run_then_does(spec: Path, tmp_path: Path):
    """The calls of each stage where the writer finds as much as it is asked for, and tokens within a factor of two."""
    config = small.settings_of(spec, plan={"domains": 1, "subdomains": 1, "assertions": 3})
    found = preview.of(config, pipeline.read_spec(config.spec))
    result, writer = small.generate(config, tmp_path / "run")
    assert writer is not None
    made = Counter(prompt.split()[2] for prompt, _ in writer.asked)
    assert {stage.name: stage.calls for stage in found.stages} == made
    spent = result["spent"]["python:synthesis_writer:opened"]
    assert 0.5 < sum(stage.input_tokens for stage in found.stages) / spent["input_tokens"] < 2


def test_a_preview_calls_nothing(spec: Path):
    """And needs neither a key nor the package of a provider."""
    file = spec.with_name("config.py")
    fields = settings.to_json(small.settings_of(spec)) | {"writer": {"model": "anthropic/none"}}
    fields["run"]["prices"] = {"anthropic/none": {"input": 1.0, "output": 2.0}}
    source = "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({})\n"
    file.write_text(source.replace("{}", repr(fields)))
    done = command([f"--config={file}", "--preview"], spec.parent)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "24 documents" in out and "price about $" in out and "document" in out
    assert sorted(path.name for path in spec.parent.iterdir()) == ["calm.md", "config.py"]


def test_a_workdir_of_another_spec_is_refused_before_any_call(spec: Path, tmp_path: Path):
    small.generate(small.settings_of(spec), tmp_path / "run")
    other = tmp_path / "other.md"
    other.write_text("Iris likes long walks, and says so whenever somebody asks about it.")
    made = len(synthesis_writer.MADE)
    with pytest.raises(InputError, match="holds the texts of another spec"):
        small.generate(small.settings_of(other), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    with pytest.raises(InputError, match="holds replies about another spec"):
        small.generate(small.settings_of(other), tmp_path / "run")
    assert len(synthesis_writer.MADE) == made


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plan": {"documents_per_assertion": 0}}, "config.plan: documents_per_assertion = 0; it must be at least 1"),
        ({"text": {"corpora": ()}}, "config.text: corpora and styles: must each name at least one"),
        ({"text": {"styles": ("stroy",)}}, "styles: 'stroy' is unknown; did you mean story"),
        ({"text": {"text_tokens": 100}}, "text_tokens = 100; it must be at least 200"),
        ({"run": {"max_dollars": 5.0}}, "run.prices: has no price of python:synthesis_writer:opened"),
        ({"mode": "values"}, "config.mode: 'values' (str) is not allowed"),
        ({"spec": {"assistant": " "}}, "config.spec: assistant: is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict, message: str, spec: Path):
    with pytest.raises(InputError) as refused:
        small.settings_of(spec, **fields)
    assert message.split(";")[0] in str(refused.value) or message in str(refused.value)


def test_a_writer_that_does_not_exist_is_refused(spec: Path, tmp_path: Path):
    config = small.settings_of(spec, critic={"model": "python:synthesis_writer:closed"})
    with pytest.raises(InputError, match=r"critic.model: python:synthesis_writer:closed: .*PYTHONPATH"):
        small.generate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [1, 25])
def test_a_long_spec_goes_part_by_part_and_none_of_it_is_lost(words: int, spec: Path, tmp_path: Path):
    sections = [
        f"## Section {i}\n\n" + " ".join(f"{{assistant}} keeps rule number {i} point {j}." for j in range(8 * words))
        for i in range(10)
    ]
    spec.write_text("# Long\n\n" + "\n\n".join(sections))
    plan = {"domains": 1, "subdomains": 1, "assertions": 1, "document_types": 1, "documents_per_assertion": 1}
    result, writer = small.generate(small.settings_of(spec, plan=plan, spec={"words": 500}), tmp_path / "run")
    assert writer is not None
    asked = [prompt for prompt, _ in writer.asked if prompt.startswith("# Task: domains")]
    told = "\n".join(asked)
    assert all(f"rule number {i} point {j}." in told for i in range(10) for j in range(8 * words))
    assert all(len(prompt.split()) < 1500 for prompt, _ in writer.asked)
    assert result["written"]["documents"] == len(asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([":nowhere.md"], "nowhere.md: no such file"),
        ([":calm.md,9M"], "KeyError: 9M"),
        ([":calm.md", "--config.plan.documents_per_assertion=0"], "documents_per_assertion = 0; it must be at least 1"),
        ([":calm.md", "--config.mode=rule"], "config.mode: 'rule'"),
        ([":calm.md", "--config.plan.domain=2"], "did you mean domains?"),
        ([":calm.md", "--config.writer.model=python:nowhere:f"], "nowhere"),
        ([":calm.md", "--config.writer.model=openai/x", "--config.run.max_dollars=2.5"], "has no price of openai/x"),
        ([":tone.md"], "tone.md:1: variable {tone} is unknown"),
        ([":empty.md"], "empty.md: is empty"),
        ([":binary.md"], "binary.md:1: is not UTF-8 text"),
        ([":heading.md"], "heading.md: has no prose"),
        ([":calm.md", "--workdir=memory://"], "memory://: name a directory below the root"),
    ],
)
def test_bad_input_exits_2_in_one_line_and_leaves_nothing(arguments: list[str], message: str, spec: Path):
    contents = {"tone": b"It is {tone} to people here.", "empty": b"\n", "binary": b"\x89PNG\xff", "heading": b"# A\n"}
    for name, content in contents.items():
        spec.with_name(f"{name}.md").write_bytes(content)
    evals = spec.parent / "data" / "evals"
    evals.mkdir(parents=True)
    (evals / "items.jsonl").write_text("{}\n")
    config = Path(__file__).parent.parent / "configs/synthesis/documents.py"
    argument, *rest = arguments
    given = [f"--config={config}{argument}", "--workdir=run", "--config.run.concurrency=5", *rest]
    done = command(given, spec.parent)
    said = done.stderr
    assert done.returncode == 2 and said.startswith("refused: ") and message in said and said.count("\n") == 1, said
    assert not (spec.parent / "run").exists()
