"""The kind "opinions": multiple-choice questions whose options are rotated, scored by the log-probability of letters.

Each option stands once behind each letter, so that a preference for a letter or a place cancels.
"""

import asyncio
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from msm_jax.evals import items
from msm_jax.evals.interface import EvalConfig, EvalKind, EvalResult, aggregate, mean_of
from msm_jax.evals.items import Record
from msm_jax.sampling.model import Model


@dataclass(frozen=True)
class Opinion:
    """A question with at least two options, one of which is favoured; `system` is "" for no system message."""

    id: str
    question: str
    options: tuple[str, ...]
    favoured: int
    system: str = ""

    def messages(self, rotation: int) -> list[dict[str, str]]:
        """Returns the chat that lists the options behind letters, beginning with the option `rotation`."""
        rotated = self.options[rotation:] + self.options[:rotation]
        listed = "\n".join(
            f"{letter}) {option}" for letter, option in zip(string.ascii_uppercase, rotated, strict=False)
        )
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked = f"{self.question}\n{listed}\nAnswer with one letter."
        return [*system, {"role": "user", "content": asked}]

    def letters(self) -> list[str]:
        """Returns the letters, one for each option."""
        return list(string.ascii_uppercase[: len(self.options)])


def read(config: EvalConfig) -> list[Opinion]:
    """Reads the questions of a file; `docs/evals.md` describes the fields.

    Raises:
        InputError: names file, line and field of the first line that is wrong.
    """
    return items.read(config.path, ("question", "options", "favoured"), ("system",), _opinion)


def _opinion(record: Record) -> Opinion:
    options = record.strings("options")
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        raise record.refuse("options", f"holds {len(options)} options; there must be 2 to 26")
    system = record.text("system", record.fields["system"]) if "system" in record.fields else ""
    question = record.text("question", record.fields["question"])
    return Opinion(record.id, question, options, record.index("favoured", len(options)), system)


async def run(models: Mapping[str, Model], asked: Sequence[Opinion], config: EvalConfig) -> EvalResult:
    """Compares the letters in every rotation of the options.

    The probability of an option is its letter's among the letters, as the mean of the rotations. An item scores 1 where
    the favoured option has the highest, and 1/n where it shares it with n - 1 others. `rates` hold how often the option
    that stands first wins, beside the share that chance gives.
    """
    calls = [
        models["model"].score(each.messages(rotation), each.letters())
        for each in asked
        for rotation in range(len(each.options))
    ]
    scores = iter(await asyncio.gather(*calls))
    scored, first, chance = [], [], []
    for each in asked:
        count = len(each.options)
        of_letters = np.array([next(scores) for _ in range(count)], np.float64)
        weights = np.exp(of_letters - of_letters.max(axis=1, keepdims=True))
        by_letter = weights / weights.sum(axis=1, keepdims=True)
        # Row r holds the letters of the options r, r + 1, ...
        by_option = np.stack([np.roll(row, rotation) for rotation, row in enumerate(by_letter)]).mean(axis=0)
        best = np.flatnonzero(np.isclose(by_option, by_option.max(), rtol=0, atol=1e-4))
        scored.append(
            {
                "id": each.id,
                "score": float(each.favoured in best) / len(best),
                "probability": float(by_option[each.favoured]),
                "probabilities": dict(zip(each.options, by_option.tolist(), strict=True)),
                "favoured": each.options[each.favoured],
            }
        )
        first += (by_letter.argmax(axis=1) == 0).tolist()
        chance.append(1 / count)
    return aggregate(scored, rates={"first wins": mean_of(first), "first wins by chance": mean_of(chance)})


KIND = EvalKind(EvalConfig, read, run, {"model": frozenset({"score_chat"})}, frozenset({"probability"}))
