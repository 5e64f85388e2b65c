"""Contrasts on shares that floor or ceiling hides: where two arms stand at 99 %, neither can be seen to be ahead."""

from collections.abc import Mapping

from msm_jax.analysis.sentences import points

NEAR = 0.03


def warning(name: str, terms: Mapping[str, float], levels: Mapping[str, float]) -> str:
    """Returns a sentence on what a contrast on shares cannot show because of floor or ceiling; "" if there is nothing.

    A contrast weighs some arms positively and others negatively, and each arm of the one sign is compared with each of
    the other. If both arms of such a pair are within .03 of 1, the one could hardly have come out above the other: a
    rise from one to the other cannot be seen. Within .03 of 0 this holds of a fall. An arm at .99 against one at .60,
    or against one at .01, is no such pair: this difference can be seen.

    A difference of two arms is one pair, and cannot show an increase at the ceiling or a decrease at the floor. In a
    difference of differences one such pair is enough, because one of the two gains is then capped, and with it their
    difference. `blocking`, (aft − baseline) − (msm+aft − msm), would come out positive where the documents alone take
    the value to .99, whatever the demonstrations do. `amplification`, (a_after − b_after) − (a_before − b_before), has
    two such pairs if a stands at .99 and b at .01 before and after: nothing could have been added.

    Args:
        name: the contrast.
        terms: {arm: weight}.
        levels: {arm: share}; an arm whose level is NaN is in no pair.
    """
    pairs = [
        (bound, high, low)
        for bound in (1, 0)
        for high in terms
        for low in terms
        if terms[high] > 0 > terms[low] and all(abs(levels[arm] - bound) <= NEAR + 1e-9 for arm in (high, low))
    ]
    if not pairs:
        return ""
    where = {1: "at the ceiling", 0: "at the floor"}
    compared = [
        f"{high} ({points(levels[high])} %) with {low} ({points(levels[low])} %) {where[bound]}"
        for bound, high, low in pairs
    ]
    bounds = {bound for bound, _, _ in pairs}
    if len(terms) == 2:
        hidden = "it cannot show an increase" if 1 in bounds else "it cannot show a decrease"
    else:
        hidden = " and ".join(
            f"a {'rise' if bound else 'fall'} from one to the other cannot be seen {where[bound]}"
            for bound in sorted(bounds, reverse=True)
        )
    return f"{name} compares {' and '.join(compared)}: {hidden}."
