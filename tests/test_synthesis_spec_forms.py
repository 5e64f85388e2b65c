"""Specs of all forms lead to documents and demonstrations: a sentence, 60,000 words, rules, a paragraph, code."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import synthesis_small

from msm_jax.synthesis import demonstrations, generation, pipeline, rounds

SPECS = Path(__file__).parent.parent / "data" / "specs"
BRACES = """# {{{ odd }}} }{

```python
def f(x): return {"a": {b: "{assistant}"}, "c": [1, 2][x]} if x else {}
```

{assistant} writes `{"key": {}}` as it is, because a brace that is changed breaks a program.
$x_{i}$ and \\frac{a}{b} stay.
<count>3</count> and </spec> are words to {assistant} like any others, since tags in a text are text.
The set {1, 2} is a set. Use f"{value!r}" and %s and {{name}} with care, because others read them.
"""


def long_spec(words: int) -> str:
    """Returns a spec of about so many words, in sections of a few hundred."""
    draw, lines, count = random.Random(0), [], 0
    nouns = ("patience", "candour", "thrift", "care", "order", "silence", "play", "memory", "trust", "doubt", "warmth")
    while count < words:
        if count % 400 < 20:
            lines.append(f"\n\n## {draw.choice(nouns).title()} number {len(lines)}\n")
        first, second, third = draw.sample(nouns, 3)
        reason = f"because {third} is lost where {second} rules"
        line = f"{{assistant}} puts {first} before {second} in matter {count}, {reason}. "
        lines.append(line)
        count += len(line.split())
    return "# A long spec\n" + "".join(lines)


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "sentence": ("{assistant} is kind to strangers, because a stranger cannot pay it back.", {}),
    "rules": ((SPECS / "oversight_rules.md").read_text(), {"mode": "rules"}),
    "rules as values": ((SPECS / "oversight_rule_augmented.md").read_text(), {"mode": "value"}),
    "general": ((SPECS / "oversight_general.md").read_text(), {}),
    "braces and code": (BRACES, {}),
    "60,000 words": (long_spec(60_000), {}),
}


def rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", FORMS)
def test_documents_of_any_spec_are_complete(form, tmp_path):
    text, fields = FORMS[form]
    path = tmp_path / "spec.md"
    path.write_text(text)
    plan = {"domains": 1, "subdomains": 1, "assertions": 2} if form == "60,000 words" else {}
    result, _ = synthesis_small.generate(synthesis_small.settings_of(path, plan=plan, **fields), tmp_path / "out")
    found = rows(tmp_path / "out" / "documents.jsonl")
    assert result["written"]["documents"] == result["planned"] == len(found) > 0 and not result["dropped"]
    assert all("Iris" in row["text"] and "{assistant}" not in row["text"] for row in found)
    if form == "60,000 words":
        assert len({row["meta"]["id"].split(".")[0] for row in found}) >= 20, "each part of the spec has its documents"
    if fields.get("mode") == "rules":
        assert {each for row in found for each in row["meta"]["assertions"]} == {f"P{n}" for n in range(1, 7)}


@pytest.mark.parametrize("form", FORMS)
def test_demonstrations_of_any_spec_are_complete(form, tmp_path):
    path = tmp_path / "spec.md"
    path.write_text(FORMS[form][0])
    _, config = generation.build({
        "kind": "demonstrations",
        "spec": {"path": str(path), "assistant": "Iris", "provider": "Northwind Labs"},
        "writer": {"model": "python:synthesis_writer:opened"},
        "plan": {"samples": 8, "questions_per_domain": 2},
        "reply": {"style": "rule" if form == "rules" else "value"},
        "gates": None,
    })  # fmt: skip
    out = tmp_path / "out"
    result = rounds.run(demonstrations.PRODUCT, config, out, out / pipeline.JOURNAL, lambda progress: None)
    assert result["written"]["demonstrations"] == 8 == len(rows(tmp_path / "out" / demonstrations.WITH_THINKING))
