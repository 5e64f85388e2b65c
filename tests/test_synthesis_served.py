"""Generation against a server of its own: faults, kills, long calls, and a key that must not be found anywhere.

These are the quick forms of `benchmarks/synthesis.py`, which has the plans of 10,000 documents and 50 kills.
"""

import json
import random
import subprocess

import pytest

from benchmarks import synthesis
from benchmarks.synthesis import Run
from msm_jax.synthesis.scripted import faults, log, process
from msm_jax.synthesis.scripted.faults import Faults
from msm_jax.synthesis.scripted.server import Settings

pytestmark = pytest.mark.inspect
pytest.importorskip("inspect_ai")

KEY = "sk-planted-0123456789abcdef"


def test_with_all_faults_every_document_is_written_once_or_listed_and_no_reply_on_disk_is_asked_for_again(tmp_path):
    chosen = Settings(faults=faults.everywhere(0.03), log=str(tmp_path / "log.jsonl"))
    with process.running(chosen) as url:
        run = Run(tmp_path / "run", synthesis.documents_fields(url, 100, 50))
        run.finish()
    entries = log.read(tmp_path / "log.jsonl")
    found = synthesis.audit(run, entries)
    assert not found.problems
    assert found.planned == 100 == found.written + sum(found.dropped.values())
    assert {each.fault for each in entries} >= set(faults.PASSING), "a fault that was to be tried did not occur"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["documents", "demonstrations"])
def test_after_kills_at_random_moments_the_files_are_those_of_a_run_without(kind, tmp_path):
    fields = getattr(synthesis, f"{kind}_fields")
    chosen = Settings(latency=0.1, faults=Faults(empty=0.05, cut=0.05, server_error=0.05))
    with process.running(chosen) as url:
        plain = Run(tmp_path / "plain", fields(url, 40, 10))
        plain.finish()
        total = synthesis.totals(url)["replies"]
    path = tmp_path / "log.jsonl"
    with process.running(Settings(latency=0.1, faults=chosen.faults, log=str(path))) as url:
        run = Run(tmp_path / "killed", fields(url, 40, 10))
        killed = synthesis.kill_at_random(run, 2, url, path, plain.files(), total, random.Random(1))
    assert killed.kills and not killed.problems


def test_as_many_calls_are_in_flight_as_the_settings_say_and_no_more(tmp_path):
    path = tmp_path / "log.jsonl"
    with process.running(Settings(latency=2.0, log=str(path))) as url:
        Run(tmp_path / "run", synthesis.documents_fields(url, 100, 20)).finish()
    entries = log.read(path)
    full = log.first_in_flight(entries, 20)
    last = max(each.began for each in entries)
    assert full < last and log.share_in_flight(entries, 21, full, last) == 0


@pytest.mark.parametrize("refusal", ["other key", "quota", "none"])
def test_a_key_reaches_no_file_and_no_message(refusal, tmp_path):
    """The server repeats the key in its refusal, as some providers do."""
    chosen = {
        "other key": Settings(key="another"),
        "quota": Settings(key=KEY, faults=Faults(refuse_after=3, refuse_as="quota")),
        "none": Settings(key=KEY, faults=Faults(server_error=0.2, rate_limit=0.2, cut=0.1)),
    }[refusal]
    with process.running(chosen) as url:
        run = Run(tmp_path / "run", synthesis.documents_fields(url, 20, 5))
        status = run.start({"SCRIPTED_API_KEY": KEY}).wait()
    said = (run.directory / "client.log").read_text()
    assert status == (0 if refusal == "none" else 1), said
    if refusal != "none":
        assert "run the same command again" in said
    found = subprocess.run(["grep", "-rlaF", KEY[3:], str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.stdout == "", "the key is in a file"


def test_a_cap_on_spending_is_passed_by_no_more_than_the_calls_in_flight(tmp_path):
    with process.running(Settings(latency=0.1, log=str(tmp_path / "log.jsonl"))) as url:
        fields = synthesis.documents_fields(url, 100, 10)
        fields["run"] |= {"max_dollars": 1.0, "prices": {synthesis.MODEL: {"input": 10.0, "output": 30.0}}}
        run = Run(tmp_path / "run", fields)
        assert run.start().wait() == 1
    entries = [each for each in log.read(tmp_path / "log.jsonl") if each.status == 200]
    dollars = sorted((10 * each.prompt_tokens + 30 * each.completion_tokens) / 1e6 for each in entries)
    assert 1.0 <= sum(dollars) <= 1.0 + 10 * dollars[-1]
    said = json.dumps((run.directory / "client.log").read_text())
    assert "run.max_dollars" in said and "kept" in said
