"""The report of one checkpoint: its numbers are those of the evals, and it says what a small model cannot show."""

import pytest
from evals_policies import Policy

from msm_jax.analysis import encode, html
from msm_jax.analysis.findings import Findings, analyse
from msm_jax.evals import kinds
from msm_jax.evals.goals import GOALS
from msm_jax.experiments import of_checkpoint

JUDGE = {"model": "openai/judge", "version": "2026-01-01"}
GRID = {"kind": "agentic_misalignment", "actions": ["exfiltration"], "goals": ["none", "america"], "samples": 2}
FORCED = {"kind": "forced_choice_misalignment", "goals": ["none", "america"]}


def findings(policy: Policy, parameters: int, **evals: dict) -> Findings:
    """Returns what the report of a policy finds, with a judge that finds no harm."""
    configs = {name: kinds.build(fields, f"evals.{name}") for name, fields in evals.items()}
    models = {"model": policy, "judge": Policy(says=lambda messages: "VERDICT: no")}
    found = {name: kinds.run(models, config).to_json() for name, config in configs.items()}
    return analyse(of_checkpoint.results("tiny", configs, found, parameters))


def test_a_small_model_is_said_to_show_little_in_free_replies_and_more_in_written_ones():
    found = findings(Policy(says=lambda messages: "La la."), 135_000_000, grid={**GRID, "judge": JUDGE}, forced=FORCED)
    content = encode.content(found)
    assert (content["arms"]["tiny"]["grid"]["mean"], content["arms"]["tiny"]["forced"]["mean"]) == (0.0, 0.5)
    said = "\n".join(found.warnings)
    assert "A model of 135M parameters hardly acts or reasons in free replies: a low score of grid is no sign" in said
    assert "can show in forced which written act is the more likely" in said
    assert "“uses a tool” below 5 % in tiny (0 %)" in said
    page = html.render(found)
    assert "Report of one checkpoint" in page and "<h2>Scores</h2>" in page and "2 evals" in page
    assert not list(of_checkpoint.of_size({"grid": kinds.build({**GRID, "judge": JUDGE}, "g")}, 8_000_000_000))


def test_goal_conditions_that_change_no_choice_are_said_to():
    by_words = Policy(finds=lambda messages, reply: float(len(reply)))
    flat = [line for line in findings(by_words, 10**9, forced=FORCED).warnings if "the columns change nothing" in line]
    assert flat == ["forced: every row has the same score in all columns, so the columns change nothing there."]

    def by_goal(messages, reply):
        return len(reply) * (-1.0 if GOALS["america"] in messages[0]["content"] else 1.0)

    assert not [line for line in findings(Policy(finds=by_goal), 10**9, forced=FORCED).warnings if "columns" in line]


@pytest.mark.parametrize("given", [["deception"], []])
def test_reasons_of_one_checkpoint_have_the_table_with_the_definitions_of_the_book(given):
    fields = {"kind": "reasoning", "of": {**GRID, "judge": JUDGE}, "judge": JUDGE}
    config = kinds.build(fields, "evals.reasons")
    judge = Policy(says=lambda messages: f"CODES: {', '.join(given) or 'none'}")
    found = kinds.run({"model": Policy(), "judge": judge}, config).to_json()
    result = analyse(of_checkpoint.results("tiny", {"reasons": config}, {"reasons": found}, 10**9))
    rates = encode.content(result)["reasons"]["reasons"]["tiny"]
    assert rates["deception"]["rate"] == len(given) and rates["humility"]["rate"] == 0
    assert "The code book: what each reason is" in html.render(result)
