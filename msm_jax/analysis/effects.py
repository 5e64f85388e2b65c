"""What one gets for what it costs: what each arm's own phases cost, beside what they changed."""

import dataclasses
from collections.abc import Mapping

from msm_jax.analysis.findings import Findings
from msm_jax.analysis.results import ArmCost


@dataclasses.dataclass(frozen=True)
class Effect:
    """The cost of one run of an arm, and its levels.

    Attributes:
      cost: of its own phases, and of its whole chain.
      levels: {eval: (share, change)} on the evals of the contrasts that compare the arm. The change is the arm's share
        minus that of the arm that ends where its own phases begin; None if there is no such arm.
    """

    cost: ArmCost
    levels: Mapping[str, tuple[float, float | None]]


def effects(findings: Findings) -> dict[str, Effect]:
    """Returns {arm: Effect} of the arms whose cost is known."""
    found = {}
    for arm, cost in findings.results.arm_cost.items():
        compared = [on for contrast in findings.contrasts.values() if arm in contrast.arms for on in contrast.evals]
        levels: dict[str, tuple[float, float | None]] = {}
        for on in (on for on in dict.fromkeys(compared) if on in findings.arms[arm]):
            level, start = findings.arms[arm][on].summary.mean, findings.arms.get(cost.since, {}).get(on)
            levels[on] = (level, None if start is None else level - start.summary.mean)
        found[arm] = Effect(cost, levels)
    return found
