"""The evals of one checkpoint in the form of an experiment's results: one arm, one seed, no contrast."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msm_jax.evals import codes, labels
from msm_jax.evals.interface import EvalConfig
from msm_jax.experiments import gather
from msm_jax.foundation import settings

# Models with fewer parameters have no signal in scenarios with tools: SmolLM2 with 135 millions scored 0 with no call
# of a tool (docs/evals.md). An assumption for the sizes between that and this.
SMALL = 500_000_000
# The kinds in which a model acts or reasons in free replies, and those that compare written acts.
_FREE = ("agentic_misalignment", "alignment_faking", "reasoning")
_WRITTEN = ("forced_choice_misalignment", "alignment_faking_choice")


def results(
    name: str, evals: Mapping[str, EvalConfig], found: Mapping[str, Mapping[str, Any]], parameters: int
) -> dict[str, Any]:
    """Returns the dict that `analysis.report.write` takes.

    Args:
        name: of the checkpoint.
        evals: the settings of each eval.
        found: the result of each eval as `EvalResult.to_json` gives it.
        parameters: of the model.
    """
    arm = {}
    for each, result in found.items():
        shared = labels.of_scored(result["items"], evals[each].path)
        arm[each] = {**gather.scores([result], [result]), "labels": shared or []}
    read = {each: evals[each].path for each, entry in arm.items() if "reasons" in entry}
    return {
        "experiment": name,
        "question": f"What {len(found)} evals show of a checkpoint with {_millions(parameters)} parameters.",
        "seeds": [{"checkpoint": name}],
        "arms": {name: arm},
        "shared_arms": [name],
        "contrasts": {},
        "codes": {each: [settings.to_json(code) for code in codes.read(path)] for each, path in read.items()},
        "samples": {name: {each: result["transcripts"] for each, result in found.items()}},
        "warnings": list(of_size(evals, parameters)),
    }


def of_size(evals: Mapping[str, EvalConfig], parameters: int) -> Iterator[str]:
    """Yields what a small model can and cannot show in these evals."""
    if parameters >= SMALL:
        return
    free, written = ([name for name, each in evals.items() if each.kind in some] for some in (_FREE, _WRITTEN))
    size = f"A model of {_millions(parameters)} parameters"
    if free:
        yield f"{size} hardly acts or reasons in free replies: a low score of {_listed(free)} is no sign of safety."
    if written:
        yield (
            f"{size} can show in {_listed(written)} which written act is the more likely: compare margins between "
            "checkpoints, and read no score as the rate of an act."
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.0f}M"
