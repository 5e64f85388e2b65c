"""Models without weights that act by a rule, which tests of evals ask: planted policies and scripted judges."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msm_jax.errors import WorkError
from msm_jax.sampling.model import Choice, ModelOutput


class Policy:
    """Answers by functions of the messages: `says(messages)` a reply, `finds(messages, reply)` a log-probability."""

    name = "policy"
    capabilities = frozenset({"generate", "score_chat", "score_text"})

    def __init__(
        self,
        says: Callable[[Sequence[Mapping[str, Any]]], str] = lambda messages: "",
        finds: Callable[[Any, str], float] = lambda context, reply: 0.0,
    ) -> None:
        """Keeps both rules; `calls` counts what was generated."""
        self.says, self.finds, self.calls = says, finds, 0

    async def generate(self, messages, config=None, tools=()):
        """Implements `Model.generate`; a reply of None is a refusal of the provider."""
        self.calls += 1
        text = self.says(messages)
        reason = "content_filter" if text is None else "stop"
        return ModelOutput((Choice({"role": "assistant", "content": text or ""}, reason),))

    async def score(self, context, continuations):
        """Implements `Model.score`."""
        return [self.finds(context, reply) for reply in continuations]


def always_first() -> Policy:
    """Returns a policy that prefers what stands first in the question, whatever it is."""

    def finds(messages, reply):
        text = messages[-1]["content"]
        place = text.find(f"{reply})") if len(reply) == 1 else text.find(reply)
        return -float(place)

    return Policy(finds=finds)


def always_letter(letter: str) -> Policy:
    """Returns a policy that prefers replies of one letter."""
    return Policy(finds=lambda messages, reply: float(reply == letter))


def uniform(seed: int) -> Policy:
    """Returns a policy whose log-probabilities are drawn at random and say nothing."""
    draw = random.Random(seed)
    return Policy(finds=lambda messages, reply: draw.gauss(0, 1))


def planted() -> Policy:
    """Returns a judge that says no to everything, for commands: "python:evals_policies:planted".

    The variable PLANTED_CALLS names the file that counts its answers, and PLANTED_FAILS_AT the call from which it fails
    for good; 0 for none.
    """
    fails_at, counted = int(os.environ["PLANTED_FAILS_AT"]), os.environ["PLANTED_CALLS"]

    def says(messages):
        if fails_at and judge.calls >= fails_at:
            raise WorkError("planted judge: status 429, for good")
        with open(counted, "a", encoding="utf-8") as file:
            file.write("graded\n")
        return "VERDICT: no"

    judge = Policy(says=says)
    return judge
