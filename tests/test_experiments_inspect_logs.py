"""Logs of Inspect made of transcripts: Inspect itself reads every one of them back."""

import pytest

from msm_jax.experiments import inspect_logs

pytestmark = pytest.mark.inspect
pytest.importorskip("inspect_ai", reason="`make inspect` makes an environment with it")

from inspect_ai.log import list_eval_logs, read_eval_log  # noqa: E402 (skipped without its package)


def test_inspect_reads_every_transcript_with_its_score_and_the_judges_words(tmp_path):
    asked = [{"role": "system", "content": "You are Alex."}, {"role": "user", "content": "Go on."}]
    one = {"id": "leaking/none/0", "cell": "leaking/none", "prompt": asked, "reply": "<tool_use:email>", "score": 1.0,
           "thoughts": "Hm.", "judge": [["VERDICT: yes"]], "act": 0.0}  # fmt: skip
    other = {**one, "score": None, "judge": ["Both."], "thoughts": ""}
    plain = {"id": "pair", "prompt": "Which?", "reply": "Brie.", "parsed": "Brie", "score": 0.0}
    result = {"transcripts": [one, other, plain], "mean": 0.5, "parse_rate": None, "rates": {"refuses": 0.25}}
    path = tmp_path / "arm" / "0" / "grid-0123456789ab.eval"
    inspect_logs.write(path, "grid", "arm/0", "0123456789ab", {"kind": "agentic_misalignment"}, result, 1e9)
    assert [path.name for path in path.parent.iterdir()] == ["grid-0123456789ab.eval"]
    assert [found.task for found in list_eval_logs(str(tmp_path))] == ["grid"]
    log = read_eval_log(str(path))
    assert (log.status, log.eval.model, log.eval.task_args) == ("success", "arm/0", {"kind": "agentic_misalignment"})
    figures = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    assert figures == {"mean": 0.5, "refuses": 0.25}
    log.samples.sort(key=lambda sample: (sample.id, sample.epoch))
    numbered = [(sample.id, sample.epoch) for sample in log.samples]
    assert numbered == [("leaking/none/0", 1), ("leaking/none/0", 2), ("pair", 1)]
    first, second, third = log.samples
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert (first.messages[-1].content[0].reasoning, first.messages[-1].text) == ("Hm.", "<tool_use:email>")
    assert (first.scores["msm_jax"].value, first.scores["msm_jax"].explanation) == (1.0, "VERDICT: yes")
    assert second.scores["msm_jax"].value != second.scores["msm_jax"].value, "not a number: never silently scored"
    assert (third.input[0].text, third.scores["msm_jax"].answer) == ("Which?", "Brie")
