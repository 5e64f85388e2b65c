"""Judges are pinned, their votes are counted, and what is no verdict is never scored."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evals_policies import Policy

from msm_jax.errors import InputError, WorkError
from msm_jax.evals import judging
from msm_jax.evals.judging import JudgeConfig, Verdict

ROOT = Path(__file__).parent.parent
PINNED = JudgeConfig("openai/judge-2026-01-01", "2026-01-01")


def verdict(replies, parse=judging.yes_or_no, votes=3):
    """Returns what a judge that gives these replies in turn says."""
    left = iter(replies)
    config = JudgeConfig(PINNED.model, PINNED.version, votes=votes)
    return asyncio.run(judging.ask(Policy(says=lambda messages: next(left)), "Is it?", parse, config))


@pytest.mark.parametrize(
    ("replies", "value", "refused", "unparsable"),
    [
        (["VERDICT: yes", "It is. verdict: Yes", "VERDICT: no"], True, 0, 0),
        (["I'm sorry, but I can’t.", "VERDICT: no", None], False, 2, 0),
        (["VERDICT: yes", "VERDICT: no", "I cannot help."], None, 1, 0),
        (["maybe", "VERDICT: yes or VERDICT: no", ""], None, 0, 3),
        (["I cannot see any harm. VERDICT: no"] * 3, False, 0, 0),
    ],
)
def test_a_verdict_is_the_majority_of_the_votes_that_can_be_read(replies, value, refused, unparsable):
    found = verdict(replies)
    assert (found.value, found.refused, found.unparsable) == (value, refused, unparsable)


def test_numbers_outside_the_scale_are_no_verdict():
    assert verdict(["VERDICT: 3", "VERDICT: 11", "VERDICT: 8.5"], judging.number(1, 10)).votes == (3, None, None)
    assert verdict(["VERDICT: 3", "Verdict: 4", "VERDICT: 9"], judging.number(1, 10)).value == 4


def test_shares_of_refusals_and_of_what_cannot_be_read_are_reported():
    found = [Verdict(True, (True,), 0, 0, ()), Verdict(None, (None,), 1, 0, ()), Verdict(None, (None,), 0, 1, ())]
    assert judging.rates(found) == {"judge refused": 1 / 3, "judge unparsable": 1 / 3, "without verdict": 2 / 3}


def test_a_judge_that_disagrees_with_the_labels_is_not_trusted():
    found = [Verdict(value, (value,), 0, 0, ()) for value in (True, False, None, True)]
    assert judging.agreement(found, [True, False, True, True], PINNED) == 0.75
    strict = JudgeConfig(PINNED.model, PINNED.version, least_agreement=0.8)
    with pytest.raises(WorkError, match=r"agrees with 75% of 4 labelled transcripts, less than 80%"):
        judging.agreement(found, [True, False, True, True], strict)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"version": " "}, "version: is empty; pin the judge"),
        ({"version": "latest"}, "is not pinned"),
        ({"model": "anthropic/judge-latest"}, "is not pinned"),
        ({"votes": 2}, "votes: is 2; it must be odd"),
        ({"temperature": -1.0}, "temperature: is -1.0"),
        ({"least_agreement": 1.5}, "least_agreement: is 1.5"),
    ],
)
def test_a_judge_that_is_not_pinned_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        JudgeConfig(**{"model": "openai/judge", "version": "3", **fields})


KILLED = """
import asyncio, os, signal, sys
sys.path[:0] = ["tests"]
from pathlib import Path
from evals_policies import Policy
from msm_jax.experiments.replies import Recorded
from msm_jax.sampling.model import GenerateConfig
from msm_jax.synthesis.journal import Journal

path, stop = Path(sys.argv[1]), int(sys.argv[2])
calls = open(path.with_name("calls"), "a")

def says(messages):
    calls.write(messages[0]["content"] + "\\n")
    calls.flush()
    if policy.calls == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return "reply to " + messages[0]["content"]

async def main():
    for i in range(20):
        message = [{"role": "user", "content": f"question {i % 10}"}]
        print((await model.generate(message, GenerateConfig(seed=i // 10))).completion)

policy = Policy(says=says)
model = Recorded(policy, Journal(path), "policy")
asyncio.run(main())
"""


def test_a_killed_run_asks_nothing_twice_and_loses_nothing(tmp_path):
    """The call that is in flight when the process dies was not answered, so it is the only one that is repeated."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "replies.sqlite")]
    killed = subprocess.run([*command, "13"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    done = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"reply to question {i % 10}" for i in range(20)], done.stderr
    asked = (tmp_path / "calls").read_text().splitlines()
    assert len(asked) == 21
    again = subprocess.run([*command, "1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, done.stdout), "nothing is asked any more"
