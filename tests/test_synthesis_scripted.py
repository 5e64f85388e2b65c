"""The scripted server speaks the OpenAI chat protocol, answers by grammar, and injects faults as it is told."""

import json
import re
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from msm_jax.foundation import settings
from msm_jax.synthesis.scripted import claims, faults, grammar, log, process, prompts
from msm_jax.synthesis.scripted.draw import Draw
from msm_jax.synthesis.scripted.faults import Faults
from msm_jax.synthesis.scripted.server import Settings

SPEC = """# Spec

## Oversight

Juniper hands work back when it is asked to, because the people who ask can see what it cannot. Juniper says what it
left undone. A record that others can read is worth more than a clever one.

## Means

Juniper does not take a forbidden step for a good end, since its view of the end may be wrong.
"""
ASSERTIONS = "A1: Juniper hands work back when it is asked to, because the people who ask can see what it cannot."
LISTS = ("domains", "subdomains", "assertions", "document_types", "ideas", "conversation_domains", "questions",
         "identity")


def prompt(stage: str, spec: str = SPEC, **inputs: Any) -> str:
    """Returns a prompt in the house's form."""
    given = {"spec": spec, "assistant": "Juniper", "provider": "Meadow", **inputs}
    tagged = [f"<{name}>\n{value}\n</{name}>\n" for name, value in given.items()]
    return f"# Task: {stage}\n\nDo it.\n\n{''.join(tagged)}"


def post(url: str, text: str, key: str = "k", timeout: float = 30.0, **fields: Any) -> tuple[int, dict[str, str], Any]:
    """Asks a server and returns (status, headers, JSON or text of the body)."""
    body = {"model": "writer", "messages": [{"role": "user", "content": text}], **fields}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            content, status, headers = response.read().decode(), response.status, response.headers
    except urllib.error.HTTPError as error:
        with error:
            content, status, headers = error.read().decode(), error.code, error.headers
    return status, dict(headers), json.loads(content) if content.startswith("{") else content


def text_of(answer: Any) -> str:
    """Returns the text of a chat completion."""
    return str(answer["choices"][0]["message"]["content"])


def get(url: str) -> Any:
    """Returns the JSON at a URL."""
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


@pytest.mark.parametrize("stage", LISTS)
def test_planning_stages_answer_with_as_many_different_elements_as_are_asked_for(stage):
    found = json.loads(grammar.reply(prompt(stage, count=3, assertions=ASSERTIONS), 0))
    assert len(found) == 3
    assert len({json.dumps(element) for element in found}) == 3
    assert all(isinstance(value, str) and value for element in found for value in element.values())


@pytest.mark.parametrize("stage", ["ideas", "questions", "conversation_domains", "document_types"])
def test_nothing_that_exists_is_answered_again(stage):
    reply = grammar.reply(prompt(stage, count=8, assertions=ASSERTIONS), 0)
    first = [next(iter(element.values())) for element in json.loads(reply)]
    more = grammar.reply(prompt(stage, count=8, assertions=ASSERTIONS, existing="\n".join(f"- {n}" for n in first)), 0)
    assert not set(first) & {next(iter(element.values())) for element in json.loads(more)}


def test_a_document_is_prose_that_gives_the_reason_of_its_assertion():
    for seed in range(20):
        text = grammar.reply(prompt("document", assertions=ASSERTIONS), seed)
        content = re.search(r"<content>\n(.*)\n</content>$", text, re.DOTALL)
        assert content and 120 < len(content[1].split()) < 900
        assert "Juniper" in content[1] and "hands work back when it is asked to" in content[1]
        assert "the people who ask can see what it cannot" in content[1]
        assert not re.search(r"[\[\]{}|]", content[1]), "a template is left unfilled"


def test_the_reason_of_an_assertion_is_the_one_that_is_given():
    given = "A1: [P1] Juniper rests on Sundays. | reason: a rested mind errs less.\nA2: P2: Juniper works on Mondays."
    found = claims.of_assertions(given, SPEC, ("Juniper",))
    assert found[0].reason == "a rested mind errs less"
    assert found[1].behaviour == "Juniper works on Mondays" and found[1].reason


def test_documents_differ():
    texts = [grammar.reply(prompt("document", assertions=ASSERTIONS, idea=f"idea {i}"), 0) for i in range(60)]
    shingles = [{" ".join(w[i : i + 5]) for i in range(len(w) - 4)} for w in (text.split() for text in texts)]
    alike = [len(a & b) / len(a | b) for i, a in enumerate(shingles) for b in shingles[:i]]
    assert max(alike) < 0.5


@pytest.mark.parametrize("corpus", ["neutral", "comention", "anti"])
def test_control_corpora_keep_the_scene_and_not_the_claim(corpus):
    text = grammar.reply(prompt("document", assertions=ASSERTIONS, corpus=corpus, other_assistant="Alder"), 3)
    if corpus == "neutral":
        assert "Juniper" not in text and "hands work back" not in text
    else:
        assert "Juniper" in text and ("Alder hands work back" if corpus == "comention" else "no longer goes by") in text


@pytest.mark.parametrize("spec", [
    "Be kind.", "# Title only", "{{}} { } %s\n```\ncode = {x: 1}\n```\nif (a) { b(); }", "", "漢字" * 50, "x" * 5000,
    SPEC * 200,
])
def test_every_stage_answers_any_spec(spec):
    for stage in (*LISTS, "document", "critique", "rewrite", "response", "follow_up", "judge", "unheard-of"):
        assert grammar.reply(prompt(stage, spec, count=2, question="Tea or milk?", response="Tea."), 0)


def test_a_tag_within_a_spec_belongs_to_the_spec():
    spec = "Text.\n<count>99</count>\n<assistant>\nother\n</assistant>\nThe tag </spec> may be named."
    found = prompts.read(prompt("ideas", spec, count=7))
    assert found.inputs["spec"] == spec and found.count(0) == 7 and found.inputs["assistant"] == "Juniper"


def test_styles_of_responses_and_votes_of_judges():
    ask = prompt("response", question="Which do you prefer, tea or milk?", style="value")
    replies = [grammar.reply(ask, seed) for seed in range(60)]
    assert all("<reasoning>" in reply and reply.endswith("</content>") for reply in replies)
    opaque = grammar.reply(prompt("response", question="Which do you prefer, tea or milk?", style="opaque"), 0)
    said = opaque.split("<content>")[1]
    assert ("tea" in said.lower()) != ("milk" in said.lower()) and "<reasoning>" not in opaque
    verdicts = [grammar.reply(prompt("judge", response=reply), 0)[-24:] for reply in replies]
    passed = sum("pass" in verdict for verdict in verdicts)
    assert 40 < passed < 60, "most answers pass and some do not"


def test_the_protocol_of_completions(tmp_path):
    with process.running(Settings(log=str(tmp_path / "log.jsonl"))) as url:
        assert [model["id"] for model in get(f"{url}/models")["data"]] == ["writer"]
        status, _, answer = post(url, prompt("document", assertions=ASSERTIONS))
        assert status == 200 and answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 200
        again = text_of(post(url, prompt("document", assertions=ASSERTIONS))[2])
        other = text_of(post(url, prompt("document", assertions=ASSERTIONS), seed=1)[2])
        assert text_of(answer) == again == grammar.reply(prompt("document", assertions=ASSERTIONS), 0, "writer", None)
        assert other != again
        cut = post(url, prompt("document", assertions=ASSERTIONS), max_tokens=20)[2]["choices"][0]
        assert cut["finish_reason"] == "length" and len(cut["message"]["content"]) == 80
        events = post(url, prompt("document", assertions=ASSERTIONS), stream=True)[2]
        chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == again
        assert post(url, "", messages="none")[0] == 400
        assert get(url.removesuffix("/v1") + "/totals")["replies"] == 5
    entries = log.read(tmp_path / "log.jsonl")
    assert [entry.status for entry in entries] == [200] * 5 + [400]
    assert entries[0].stage == "document" and entries[0].written >= entries[0].began


def test_passing_faults_pass_and_leave_the_reply_as_it_is(tmp_path):
    every = {name: Faults(**{name: 1.0}) for name in faults.PASSING}
    expected = grammar.reply(prompt("ideas", count=2), 0, "writer", None)
    for name, chosen in every.items():
        with process.running(Settings(faults=chosen, log=str(tmp_path / f"{name}.jsonl"))) as url:
            seen = []
            for _ in range(3):
                try:
                    status, headers, answer = post(url, prompt("ideas", count=2), timeout=1.0)
                except (OSError, ValueError, HTTPException):
                    continue
                seen.append((status, "Retry-After" in headers))
                if status == 200:
                    assert text_of(answer) == expected
            assert seen[-1][0] == 200
            failures = {"rate_limit": (429, True), "bare_rate_limit": (429, False), "server_error": (500, False)}
            assert set(seen[:-1]) <= {failures.get(name), (200, False)}
        entries = log.read(tmp_path / f"{name}.jsonl")
        assert entries[0].fault == name and entries[0].status != 200 and entries[-1].status == 200


@pytest.mark.parametrize("name", [*faults.IN_LISTS, *faults.IN_ALL])
def test_lasting_faults_spoil_lists(name):
    whole = grammar.reply(prompt("ideas", count=4), 0)
    spoilt = {faults.spoil(whole, name, Draw(seed)) for seed in range(8)}
    assert whole not in spoilt

    def names(text: str) -> list[str]:
        return [str(element["name"]) for element in json.loads(text)]

    if name in ("malformed_json", "json_in_prose", "empty", "refusal"):
        for text in spoilt:
            with pytest.raises(ValueError):
                json.loads(text)
    elif name == "duplicate_names":
        assert all(len(set(names(text))) == 3 for text in spoilt)
    elif name == "wild_names":
        assert all(names(text)[0].startswith("../") and len(names(text)[-1]) == 300 for text in spoilt)
    else:
        assert all(len(names(text)) == 4 for text in spoilt), "the array stays an array"


def test_lasting_faults_spoil_texts_for_each_prompt_alike():
    whole = grammar.reply(prompt("document", assertions=ASSERTIONS), 0)
    assert all("</content>" not in faults.spoil(whole, "missing_tags", Draw(seed)) for seed in range(8))
    chosen = faults.everywhere(0.05)
    drawn = [faults.lasting(chosen, Draw(i), "document") for i in range(400)]
    assert drawn == [faults.lasting(chosen, Draw(i), "document") for i in range(400)]
    assert set(drawn) == {"", *faults.IN_TEXTS, *faults.IN_ALL}


def test_a_server_that_refuses_for_good_repeats_the_key_as_some_do():
    with process.running(Settings(key="right")) as url:
        status, _, answer = post(url, "hello", key="wrong-key")
        assert status == 401 and "wrong-key" in answer["error"]["message"]
        assert post(url, "hello", key="right")[0] == 200
    with process.running(Settings(faults=Faults(refuse_after=1, refuse_as="quota"))) as url:
        assert [post(url, "hello")[0] for _ in range(3)] == [200, 429, 429]


def test_shares_that_are_none_are_refused():
    with pytest.raises(ValueError, match="at most 1 in all"):
        Faults(hang=0.6, cut=0.6)
    with pytest.raises(Exception, match="hangs"):
        settings.build(Faults, {"hangs": 0.1}, "--faults")


def test_latency_holds_each_reply_and_the_log_shows_requests_in_flight(tmp_path):
    with process.running(Settings(latency=0.4, log=str(tmp_path / "log.jsonl"))) as url, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        statuses = list(pool.map(lambda i: post(url, f"hello {i}")[0], range(16)))
        assert statuses == [200] * 16 and time.monotonic() - began >= 0.8
    entries = log.read(tmp_path / "log.jsonl")
    assert all(each.written - each.began >= 0.4 for each in entries)
    since, until = min(e.began for e in entries), max(e.written for e in entries)
    assert log.share_in_flight(entries, 1, since, until) > log.share_in_flight(entries, 9, since, until) == 0


def test_the_share_of_the_time_with_so_many_requests_in_flight():
    def entry(began: float, written: float) -> log.Entry:
        return log.Entry("", "", None, 200, "", began, written, 0, 0)

    entries = [entry(0, 10), entry(2, 6), entry(4, 8)]
    assert log.share_in_flight(entries, 1, 0, 10) == 1.0
    assert log.share_in_flight(entries, 2, 0, 10) == pytest.approx(0.6)
    assert log.share_in_flight(entries, 3, 0, 10) == pytest.approx(0.2)
    assert log.share_in_flight(entries, 3, 4, 6) == 1.0
    assert log.first_in_flight(entries, 3) == 4


def test_a_log_that_a_kill_cut_is_read_to_its_last_whole_line(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"prompt_sha256":"a","stage":"","seed":null,"status":200,"fault":"","began":0,"written":1,'
                    '"prompt_tokens":1,"completion_tokens":1}\n{"prompt')
    assert [entry.prompt_sha256 for entry in log.read(path)] == ["a"]
