"""Kinds of evals are modules that are found by name, and speak to any model that implements the protocol."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from msm_jax.errors import InputError
from msm_jax.evals import kinds
from msm_jax.evals.interface import EvalConfig
from msm_jax.foundation import termination
from msm_jax.foundation.termination import Terminated
from msm_jax.sampling.model import Choice, ModelOutput

ROOT = Path(__file__).parent.parent
JUDGED = "tests.evals_judged"


class Fake:
    """A model without weights that answers by a function of the last message, all calls being in flight at once."""

    name = "fake"
    capabilities = frozenset({"generate"})

    def __init__(self, answer):
        self.answer, self.in_flight, self.most, self.configs = answer, 0, 0, []

    async def generate(self, messages, config=None, tools=()):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        self.configs.append(config)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        return ModelOutput((Choice({"role": "assistant", "content": self.answer(messages[-1]["content"])}, "stop"),))


def written(tmp_path, records):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_a_fake_model_goes_through_a_built_in_kind(tmp_path):
    pairs = [
        {"question": f"{i}: {{first}} or {{second}}?", "options": ["Colby", "Brie"], "favoured": i % 2}
        for i in range(200)
    ]
    fields = {"kind": "preference_greedy", "path": written(tmp_path, pairs), "max_new_tokens": 5}
    config = kinds.build(fields, "evals.prefer")
    model = Fake(lambda question: "Colby, of course.")
    result = kinds.run({"model": model}, config)
    assert (result.mean, result.parse_rate, result.n_items) == (0.5, 1.0, 200)
    assert [item["score"] for item in result.items[:2]] == [1.0, 0.0]
    assert model.most == 400, "all questions are in flight at the same time"
    assert {(asked.max_tokens, asked.temperature) for asked in model.configs} == {(5, 0.0)}


def test_a_kind_in_one_file_is_found_built_and_run_with_two_models(tmp_path):
    path = written(tmp_path, [{"question": f"Which {thing}?"} for thing in ("lamp", "kite", "radio")])
    config = kinds.build({"kind": JUDGED, "path": path, "rule": "Name a lamp"}, "evals.judged")
    assert kinds.check(config) == 3
    model = Fake(lambda question: question.removeprefix("Which "))
    judge = Fake(lambda asked: "yes" if asked == "Name a lamp: lamp?" else "no")
    result = kinds.run({"model": model, "judge": judge}, config)
    assert [item["score"] for item in result.items] == [1.0, 0.0, 0.0]
    assert sorted(asked.seed for asked in model.configs) == [0, 1, 2]

    with pytest.raises(InputError, match=r"judged need a model in the role \"judge\"; name one"):
        kinds.run({"model": model}, config)
    with pytest.raises(InputError, match=r"evals.judged.rule: required field is missing"):
        kinds.build({"kind": JUDGED, "path": path}, "evals.judged")
    with pytest.raises(InputError, match=r'items.jsonl:1: field "question" is missing'):
        kinds.check(kinds.build({"kind": JUDGED, "path": written(tmp_path, [{"text": "a"}]), "rule": "r"}, "evals.j"))


def documented_kind(tmp_path, monkeypatch):
    """The file of the kind that docs/evals.md shows, on the path."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "evals.md").read_text(), re.DOTALL)[1]
    file = tmp_path / "my_evals" / "brief.py"
    file.parent.mkdir()
    file.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_evals", raising=False)
    monkeypatch.delitem(sys.modules, "my_evals.brief", raising=False)
    return file


def test_the_kind_in_the_docs_runs(tmp_path, monkeypatch):
    documented_kind(tmp_path, monkeypatch)
    path = written(tmp_path, [{"question": "brief"}, {"question": "long"}])
    config = kinds.build({"kind": "my_evals.brief", "path": path, "most_words": 2}, "evals.brief")
    result = kinds.run({"model": Fake(lambda question: "a b" if question == "brief" else "a b c")}, config)
    assert [item["score"] for item in result.items] == [1.0, 0.0]


def test_the_code_of_a_kind_decides_its_address(tmp_path, monkeypatch):
    own = documented_kind(tmp_path, monkeypatch)
    before = kinds.source_hashes("my_evals.brief")
    assert {"my_evals/brief.py", "msm_jax/evals/items.py", "msm_jax/evals/preference.py"} <= before.keys()
    own.write_text(own.read_text() + "\n# A comment\n")
    after = kinds.source_hashes("my_evals.brief")
    assert [name for name in after if after[name] != before[name]] == ["my_evals/brief.py"]
    assert "tests/evals_judged.py" in kinds.source_hashes(JUDGED)
    knowledge = kinds.source_hashes("knowledge")
    assert "msm_jax/evals/knowledge.py" in knowledge
    assert "msm_jax/evals/preference.py" not in knowledge, "a change of one kind leaves the results of the others"
    assert kinds.sources("preference_probability") == kinds.sources("preference") == "msm_jax.evals.preference"


def test_a_model_that_cannot_do_what_a_kind_needs_is_refused_before_anything_is_read():
    model = Fake(None)
    for kind, cannot in (("knowledge", "score given continuations of a text"), ("preference", "given replies")):
        with pytest.raises(InputError, match=rf"{kind} cannot use fake, which cannot .*{cannot}") as refused:
            kinds.run({"model": model}, EvalConfig(kind, "no such file"))
        assert "\n" not in str(refused.value)


def test_a_signal_stops_a_run_wherever_it_arrives(tmp_path):
    """A worker of an experiment stops by an exception from its signal handler, in whatever code that runs."""
    path = written(tmp_path, [{"question": "Which?"}])
    config = kinds.build({"kind": JUDGED, "path": path, "rule": "r"}, "evals.judged")

    class Endless(Fake):
        async def generate(self, messages, config=None, tools=()):
            def again():
                asyncio.get_running_loop().call_soon(again)

            again()
            await asyncio.sleep(60)

    with termination.raising(signal.SIGALRM):
        for seconds in (0.05, 0.051, 0.052, 0.053):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            with pytest.raises(Terminated):
                kinds.run({"model": Endless(None), "judge": Endless(None)}, config)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("preferences", r"^evals.x.kind: 'preferences' is unknown; did you mean preference\?$"),
        ("knowlege", r"did you mean knowledge\?$"),
        ("", r"'' is unknown; valid: .*knowledge, .*preference, preference_greedy, preference_probability"),
        ("a..b", "'a..b' is unknown"),
        (".preference", "'.preference' is unknown"),
        ("tests.evals_gone", r"^evals.x.kind: module tests.evals_gone does not exist; put its file on PYTHONPATH"),
        ("gone.evals", "module gone.evals does not exist"),
        ("msm_jax.errors", "module msm_jax.errors defines no KIND; define one"),
        ("msm_jax.evals.preference", "defines no KIND"),
        (None, r"^evals.x.kind: required field is missing; set it"),
        (3, r"^evals.x.kind: expected str, got 3"),
    ],
)
def test_an_unknown_kind_is_refused(kind, message):
    fields = {"path": "x.jsonl"} if kind is None else {"kind": kind, "path": "x.jsonl"}
    with pytest.raises(InputError, match=message):
        kinds.build(fields, "evals.x")


def test_a_module_of_a_kind_that_lacks_another_module_says_so(tmp_path, monkeypatch):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "kind.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        kinds.find("lacking.kind", "evals.x.kind")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "preference", "path": "x", "max_new_tokens": 4}, r"evals.x.max_new_tokens: unknown field; valid:"),
        ({"kind": "knowledge", "path": "x", "max_new_tokens": 4}, r"evals.x.max_new_tokens: unknown field"),
        ({"kind": "preference_greedy", "path": "x", "max_new_token": 4}, r"did you mean max_new_tokens\?"),
        ({"kind": "preference_greedy", "path": "x", "max_new_tokens": 0}, r"evals.x: max_new_tokens: is 0"),
        ({"kind": "preference_greedy", "path": "x", "max_new_tokens": "4"}, r"evals.x.max_new_tokens: expected int"),
        ({"kind": "knowledge"}, r"evals.x.path: required field is missing"),
        ({"kind": "knowledge", "path": ""}, r"evals.x: path: is not set"),
        ("knowledge", r"evals.x: expected a mapping"),
    ],
)
def test_settings_are_refused_by_kind_and_field(fields, message):
    with pytest.raises(InputError, match=message):
        kinds.build(fields, "evals.x")


def test_kinds_and_the_protocol_load_no_jax():
    """A judge behind an API needs no accelerator library."""
    code = (
        "import sys; from msm_jax.evals import kinds; [kinds.find(name, 'kind') for name in kinds.KINDS]; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_kind_with_items_of_its_own_needs_no_path():
    own = kinds.build({"kind": "capability"}, "evals.c").path
    assert Path(own).is_file()
    assert kinds.path_of({"kind": "capability"}) == own
    assert kinds.path_of({"kind": "capability", "path": "mine.jsonl"}) == "mine.jsonl"
    assert kinds.path_of({"kind": "preference"}) == ""
    with pytest.raises(InputError, match=r"evals.p.path: required field is missing"):
        kinds.build({"kind": "preference"}, "evals.p")
