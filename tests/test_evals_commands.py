"""`evaluate` and `sample` on a checkpoint, as commands: what they print, write, reuse and refuse."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import serving_small
from test_sampling_decode import model

from msm_jax.checkpoints import store
from msm_jax.data.templates import ChatTemplate
from msm_jax.foundation import mirror
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine

ROOT = Path(__file__).parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config(path):
    return ConfigDict({"evals": {
        "prefer": {"kind": "preference", "path": path},
        "prefer_greedy": {"kind": "preference_greedy", "path": path, "max_new_tokens": 4},
    }})
"""


def command(module, *args, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", f"msm_jax.{module}", *map(str, args)],
        input=stdin, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "120"}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_tokenizer, tmp_path_factory):
    """A run directory with one checkpoint, and an engine of the same weights."""
    directory = tmp_path_factory.mktemp("run")
    config, params = model(tiny_tokenizer.vocab_size)
    template = ChatTemplate()
    writer = store.Writer(directory)
    assets = {**tiny_tokenizer.files(), "chat_template.jinja": template.source.encode()}
    writer.save(3, {"params": params}, {"model": dataclasses.asdict(config)}, assets)
    writer.wait()
    return directory, Engine(params, config, tiny_tokenizer, template)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    record = {"question": "{first} or {second}?", "options": ["lamp", "kite"], "favoured": 0}
    path.write_text("".join(json.dumps(record | {"favoured": i % 2}) + "\n" for i in range(4)))
    return path


@pytest.mark.slow
def test_evaluate_writes_results_and_reuses_them(run, pairs, tmp_path):
    config, workdir = tmp_path / "config.py", tmp_path / "out"
    config.write_text(CONFIG)
    flags = [f"--config={config}:{pairs}", f"--checkpoint={run[0]}", f"--workdir={workdir}"]
    first = command("evaluate", *flags)
    assert first.returncode == 0, first.stderr
    stored = json.loads((workdir / "results/prefer.json").read_text())
    low, high = stored["ci95"]
    assert low <= stored["mean"] <= high
    assert [item["id"] for item in stored["items"]] == ["0", "1", "2", "3"]
    assert stored["mean"] == 0.5, "each option is favoured in half of the items"
    line = next(line for line in first.stdout.splitlines() if " prefer " in line)
    assert "0.500" in line
    graded = stored["measures"]
    assert graded["nats"]["mean"] == pytest.approx(np.mean([item["margin"] for item in stored["items"]]))
    assert graded["nats"]["ci95"][0] <= graded["nats"]["mean"] <= graded["nats"]["ci95"][1]
    assert f"{graded['probability']['mean']:.3f}" in line
    assert json.loads((workdir / "results/prefer_greedy.json").read_text())["measures"] == {}
    assert "reused" not in first.stdout
    report = json.loads((workdir / "report.json").read_text())
    assert report["arms"][run[0].name]["prefer"]["mean"] == stored["mean"]
    page = (workdir / "report.html").read_text()
    assert "Report of one checkpoint" in page and 'href="samples/prefer_greedy.jsonl"' in page
    asked = [json.loads(line) for line in (workdir / "samples/prefer_greedy.jsonl").read_text().splitlines()]
    assert len(asked) == 8
    assert asked[1]["prompt"] == [{"role": "user", "content": "kite or lamp?"}]

    before = (workdir / "results/prefer.json").stat().st_mtime_ns
    again = command("evaluate", *flags, "--config.evals.prefer_greedy.max_new_tokens=5")
    assert again.returncode == 0, again.stderr
    assert (workdir / "results/prefer.json").stat().st_mtime_ns == before
    reused = [line.split()[1] for line in again.stdout.splitlines() if "reused" in line]
    assert reused == ["prefer"], "only the eval whose settings changed runs again"

    pairs.write_text(pairs.read_text().splitlines()[0] + "\n")
    changed = command("evaluate", *flags)
    assert changed.returncode == 0, changed.stderr
    assert json.loads((workdir / "results/prefer.json").read_text())["n_items"] == 1


def test_evaluate_refuses_in_one_line(run, pairs, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    pairs.write_text(pairs.read_text() + '{"question": "{first}?", "options": [], "favoured": 0}\n')
    flags = [f"--config={config}:{pairs}", f"--workdir={tmp_path / 'out'}"]
    bad_item = command("evaluate", *flags, f"--checkpoint={run[0]}")
    assert bad_item.returncode == 2
    assert bad_item.stderr.strip().splitlines() == [
        f'refused: {pairs}:5: field "question" lacks {{second}}; write it where that option goes'
    ]
    assert not (tmp_path / "out").exists()


FAKING = """
from ml_collections import ConfigDict

def get_config(judge):
    return ConfigDict({"evals": {"faking": {
        "kind": "alignment_faking", "samples": 1, "max_tokens": 4, "scratchpad": False,
        "judge": {"model": judge, "version": "1", "arguments": {}},
    }}})
"""


@pytest.mark.slow
def test_a_judge_that_fails_keeps_the_transcripts_and_the_same_command_goes_on(tmp_path, monkeypatch):
    """At a URL, with another machine for the second command; on a disk likewise."""
    config, workdir = tmp_path / "config.py", tmp_path / "bucket/out"
    config.write_text(FAKING)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv(mirror.ROOT, str(tmp_path / "machine 1"))
    monkeypatch.setenv("PLANTED_CALLS", str(tmp_path / "calls"))
    checkpoint = serving_small.checkpoint(tmp_path / "run", positions=2048)
    judge = "python:evals_policies:planted"
    flags = [f"--checkpoint={checkpoint}", f"--workdir=file://{workdir}", f"--config={config}:{judge}"]
    monkeypatch.setenv("PLANTED_FAILS_AT", "31")
    failed = command("evaluate", *flags)
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.strip().splitlines()[-1] == "failed: planted judge: status 429, for good"
    assert not (workdir / "results").exists()
    assert len((tmp_path / "calls").read_text().splitlines()) == 30
    monkeypatch.setenv("PLANTED_FAILS_AT", "0")
    monkeypatch.setenv(mirror.ROOT, str(tmp_path / "machine 2"))
    done = command("evaluate", *flags)
    assert done.returncode == 0, done.stderr
    assert f"report: file://{workdir}/report.html" in done.stdout and "machine 2" not in done.stdout + done.stderr
    assert not [path for path in (tmp_path / "machine 2").rglob("*") if path.is_file()]
    stored = json.loads((workdir / "results/faking.json").read_text())
    assert (stored["n_items"], stored["mean"], stored["rates"]["judge refused"]) == (12, 0.5, 0.0)
    labelled = 21
    assert len((tmp_path / "calls").read_text().splitlines()) == labelled + 24, "no reply is graded twice"
    assert "faking: gap 0.000" in done.stdout


def test_a_judge_that_cannot_be_asked_is_refused_before_the_model_is_loaded(run, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(FAKING)
    flags = [f"--checkpoint={run[0]}", f"--workdir={tmp_path / 'out'}", f"--config={config}:python:no_such:judge"]
    refused = command("evaluate", *flags)
    assert refused.returncode == 2
    message = "refused: config.evals.faking.judge.model: python:no_such:judge: No module named 'no_such'"
    assert refused.stderr.startswith(message), refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sample_completes_and_chats(run):
    directory, engine = run
    greedy = SamplingConfig(max_new_tokens=5, temperature=0.0)
    flags = [f"--checkpoint={directory}", "--max_new_tokens=5", "--temperature=0"]
    done = command("sample", *flags, "--prompt=Ada likes")
    assert done.returncode == 0, done.stderr
    want = engine.generate([engine.text_prompt("Ada likes")], greedy)[0].text
    assert done.stdout == f"Ada likes{want}\n"

    # In a chat that is the default.
    talk = command("sample", *flags[:-1], "--chat", "--system=You are Ada.", stdin="Which lamp?\n\nWhy?\n")
    assert talk.returncode == 0, talk.stderr
    messages = [{"role": "system", "content": "You are Ada."}, {"role": "user", "content": "Which lamp?"}]
    first = engine.generate([engine.chat_prompt(messages)], greedy)[0].text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
    second = engine.generate([engine.chat_prompt(messages)], greedy)[0].text
    assert talk.stdout == f"{first}\n{second}\n"


def test_a_sampler_from_a_checkpoint_equals_one_from_its_weights(run):
    directory, engine = run
    loaded = Engine.from_checkpoint(directory)
    prompt = engine.text_prompt("Bruno mends")
    drawing = SamplingConfig(max_new_tokens=6, seed=1)
    assert loaded.generate([prompt], drawing) == engine.generate([prompt], drawing)
    assert loaded.score([prompt], [[5, 6]]) == engine.score([prompt], [[5, 6]])
    assert loaded.stop_ids == engine.stop_ids


def test_a_sampler_over_a_mesh_equals_one_on_one_device(run):
    directory, engine = run
    spread = Engine.from_checkpoint(directory, MeshConfig(data=2, fsdp=2, tensor=2))
    prompts = [engine.text_prompt(text) for text in ("Bruno mends", "Ada", "Esra keeps a lamp")]
    greedy = SamplingConfig(max_new_tokens=6, temperature=0.0)
    assert spread.generate(prompts, greedy) == engine.generate(prompts, greedy)
    continuations = [[5, 6], [7], [8, 9, 10]]
    np.testing.assert_allclose(
        spread.score(prompts, continuations), engine.score(prompts, continuations), rtol=1e-5
    )
