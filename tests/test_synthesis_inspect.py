"""Writers through Inspect: what is missing is named before any call, faults pass, and no key is told to anyone."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import synthesis_small as small

from msm_jax.errors import InputError
from msm_jax.synthesis import inspect_model, writers
from msm_jax.synthesis.config import WriterConfig
from msm_jax.synthesis.scripted import faults, log, process
from msm_jax.synthesis.scripted.server import Settings

ROOT = Path(__file__).parent.parent
KEY = "sk-planted-0123456789abcdef"


@pytest.fixture
def inspect() -> None:
    """Skips a test where Inspect is not installed."""
    pytest.importorskip("inspect_ai", reason="Inspect is not installed; `make inspect` makes an environment with it")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The small spec as a file."""
    path = tmp_path / "calm.md"
    path.write_text(small.SPEC)
    return path


def served(url: str, **options: object) -> dict:
    """Returns the settings of a writer that asks a server through Inspect."""
    return {"model": "openai-api/planted/writer", "base_url": url, "options": options}


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is not None, reason="Inspect is installed")
@pytest.mark.parametrize("model", ["openai/gpt-4o", "scripted"])
def test_without_inspect_the_command_that_installs_it_is_named(model: str):
    with pytest.raises(InputError, match=r"needs the package .*make inspect"):
        writers.check(WriterConfig(model), "writer")


@pytest.mark.inspect
@pytest.mark.usefixtures("inspect")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (WriterConfig("nosuch/model"), "nosuch"),
        (WriterConfig("justaname"), "<api_name>/<model_name>"),
        (WriterConfig("openai/gpt-4o"), "set the variable OPENAI_API_KEY"),
        (WriterConfig("openai-api/planted/writer", "http://127.0.0.1:1"), "set the variable PLANTED_API_KEY"),
        (WriterConfig("mockllm/model", options={"temprature": 1}), "temprature: unknown; did you mean temperature?"),
        (WriterConfig("mockllm/model", options={"temperature": "hot"}), "temperature"),
        (WriterConfig("scripted", arguments={"latncy": 1}), "did you mean latency?"),
        (WriterConfig("checkpoint:nowhere"), "nowhere: no such checkpoint"),
    ],
)
def test_a_writer_that_cannot_be_asked_is_refused(
    config: WriterConfig, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError) as refused:
        writers.check(config, "writer")
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.inspect
@pytest.mark.usefixtures("inspect")
def test_batches_are_left_to_inspect_with_no_limit_of_ours_on_its_connections(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    batched = inspect_model.get(WriterConfig("openai/gpt-4o", options={"batch": 500}), 1000, "writer")
    assert batched.config.batch == 500 and batched.config.max_connections is None
    plain = inspect_model.get(WriterConfig("openai/gpt-4o"), 1000, "writer")
    assert plain.config.batch is None and plain.config.max_connections == 1000


@pytest.mark.parametrize("arguments", [{"api_key": KEY}, {"API-Key": KEY}])
def test_a_key_in_the_settings_is_refused_and_not_repeated(arguments: dict):
    with pytest.raises(InputError, match="environment variable") as refused:
        WriterConfig("openai/gpt-4o", arguments=arguments)
    assert KEY not in str(refused.value)
    with pytest.raises(InputError, match="environment variable"):
        WriterConfig("openai/gpt-4o", options={"extra_headers": {"Authorization": f"Bearer {KEY}"}})


@pytest.mark.parametrize(
    "message",
    [f"Incorrect API key provided: {KEY}.", "Bearer abcdefghij is wrong", "key sk-ant-xxxxxxxxxxxx", "own-value"],
)
def test_what_may_be_a_key_is_taken_out_of_messages(message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_PROVIDER_TOKEN", "own-value")
    said = inspect_model.redacted(message)
    assert "(key)" in said
    assert not any(secret in said for secret in (KEY, "abcdefghij", "xxxxxxxx", "own-value"))


@pytest.mark.slow
@pytest.mark.inspect
@pytest.mark.usefixtures("inspect")
def test_every_fault_passes_and_nothing_is_asked_twice(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PLANTED_API_KEY", KEY)
    file = tmp_path / "server.jsonl"
    with process.running(Settings(faults=faults.everywhere(0.03), log=file)) as url:
        config = small.settings_of(spec, run={"concurrency": 20, "attempts": 3})
        config = small.with_writer(config, served(url, attempt_timeout=2, max_retries=4))
        result, _ = small.generate(config, tmp_path / "run")
    dropped = [json.loads(line) for line in (tmp_path / "run/dropped.jsonl").read_text().splitlines()]
    assert result["planned"] == result["written"]["documents"] + sum(1 for row in dropped if row["meta"])
    arrived = [each for each in log.read(file) if each.status == 200 and each.fault not in ("cut", "hang")]
    answered = [(each.prompt_sha256, each.seed) for each in arrived]
    assert len(answered) == len(set(answered))


@pytest.mark.inspect
@pytest.mark.usefixtures("inspect")
@pytest.mark.parametrize("refused", ["key", "quota"])
def test_a_provider_that_refuses_for_good_stops_the_command(refused: str, spec: Path, tmp_path: Path):
    """And the key is in none of the files and messages."""
    server = Settings(faults=faults.Faults(refuse_after=9, refuse_as=refused), key=KEY)
    config = tmp_path / "config.py"
    with process.running(server) as url:
        fields = {
            "spec": {"path": str(spec), "assistant": "Iris", "provider": "Northwind Labs"},
            "writer": served(url, attempt_timeout=5),
            "gates": None,
        }
        source = f"from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({fields})\n"
        config.write_text(source)
        command = [sys.executable, "-m", "msm_jax.generate", f"--config={config}", f"--workdir={tmp_path}/run"]
        environment = {**os.environ, "PLANTED_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1, done.stderr
    assert re.search(r"\d+ replies are kept in .*, and run the same command again to continue", done.stderr)
    files = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in content for content in (*files, done.stdout.encode(), done.stderr.encode()))
