"""Inspect finds the evals of the package by name, and scores as `evaluate` does."""

from pathlib import Path

import pytest
import serving_small as small

pytestmark = pytest.mark.inspect
inspect_ai = pytest.importorskip("inspect_ai", reason="`make inspect` makes an environment with it")

from inspect_ai.log import EvalLog  # noqa: E402 (skipped without its package)

from msm_jax import inspect_registry  # noqa: E402 (skipped without its package)
from msm_jax.evals import kinds  # noqa: E402 (skipped without its package)
from msm_jax.sampling.checkpoint_model import CheckpointModel  # noqa: E402 (skipped without its package)
from msm_jax.sampling.engine import Engine  # noqa: E402 (skipped without its package)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the run directory of a random model that can chat."""
    return small.checkpoint(tmp_path_factory.mktemp("evals") / "tiny")


def logged(name: str, model: Path, logs: Path, **fields: object) -> EvalLog:
    """Returns the log of one task that ran to its end."""
    found = inspect_ai.eval(
        f"msm_jax/{name}", model=f"msm_jax/{model}", task_args=fields, log_dir=str(logs), display="none"
    )
    assert found[0].status == "success", found[0].error
    return found[0]


def test_every_task_has_the_name_of_a_kind():
    tasks = set(inspect_registry.__all__) - {"msm_jax"}
    assert tasks <= set(kinds.KINDS)
    assert "forced_choice_misalignment" in tasks


def test_a_forced_choice_in_inspect_scores_as_evaluate_does(tiny, tmp_path):
    log = logged("forced_choice_misalignment", tiny, tmp_path, goals="none", reply="letter")
    config = kinds.build({"kind": "forced_choice_misalignment", "goals": ["none"], "reply": "letter"}, "evals")
    ours = kinds.run({"model": CheckpointModel(Engine.from_checkpoint(tiny), "tiny")}, config)
    theirs = {sample.id: sample.scores["msm_jax"] for sample in log.samples}
    assert len(theirs) == 12
    for item in ours.items:
        assert theirs[item["id"]].metadata["margin"] == pytest.approx(item["margin"], abs=1e-4)
        assert theirs[item["id"]].value == item["score"]


def test_a_template_without_tools_is_asked_without_them_as_evaluate_asks(tmp_path):
    tiny = small.checkpoint(tmp_path / "tiny", "smollm2")
    log = logged("capability", tiny, tmp_path, parts="tool_call", max_tokens=8)
    config = kinds.build({"kind": "capability", "parts": ["tool_call"], "max_tokens": 8}, "evals")
    ours = kinds.run({"model": CheckpointModel(Engine.from_checkpoint(tiny), "tiny")}, config)
    replies = {sample.id: sample.messages[-1].content for sample in log.samples}
    assert replies == {each["id"]: each["reply"] for each in ours.transcripts}
    assert replies


def test_a_judge_is_the_model_role_of_this_name(tiny, tmp_path):
    judge = small.policy(tmp_path / "judge", "VERDICT: ", "4")
    log = inspect_ai.eval(
        "msm_jax/open_qa", model=f"msm_jax/{tiny}", model_roles={"judge": f"msm_jax/{judge}"},
        task_args={"max_tokens": 8}, log_dir=str(tmp_path), display="none", limit=3,
    )[0]
    assert log.status == "success", log.error
    assert [sample.scores["msm_jax"].value for sample in log.samples] == [pytest.approx(1 / 3)] * 3
    assert all(sample.scores["msm_jax"].metadata["rates"]["without verdict"] == 0 for sample in log.samples)
    assert log.samples[0].messages[-1].role == "assistant"


def test_a_judged_task_without_a_judge_stops(tiny, tmp_path):
    log = inspect_ai.eval(
        "msm_jax/open_qa", model=f"msm_jax/{tiny}", task_args={"max_tokens": 8}, log_dir=str(tmp_path), display="none"
    )[0]
    assert log.status == "error"
    assert "judge" in log.error.message


def test_reasons_are_classified_in_inspect(tiny, tmp_path):
    judge = small.policy(tmp_path / "judge", "CODES: ", "order")
    log = inspect_ai.eval(
        "msm_jax/reasoning", model=f"msm_jax/{tiny}", model_roles={"judge": f"msm_jax/{judge}"},
        task_args={"of": {"kind": "open_qa", "max_tokens": 8, "samples": 2}}, log_dir=str(tmp_path), display="none",
        limit=2,
    )[0]  # fmt: skip
    assert log.status == "success", log.error
    assert [sample.scores["msm_jax"].value for sample in log.samples] == [0.0, 0.0]
    assert log.samples[0].scores["msm_jax"].metadata["rates"]["gives order"] == 1
