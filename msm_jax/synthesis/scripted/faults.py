"""The faults of a server, drawn for each prompt: some pass when a request is repeated, some stay in the reply.

Passing faults precede a reply: the first one or two requests for a prompt meet them. Lasting faults are part of the
reply and, as the reply is, a function of the prompt and the request's seed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from msm_jax.foundation import settings
from msm_jax.synthesis.scripted import planning
from msm_jax.synthesis.scripted.draw import Draw

PASSING = ("rate_limit", "bare_rate_limit", "server_error", "hang", "cut")
IN_LISTS = ("malformed_json", "json_in_prose", "duplicate_names", "wild_names")
IN_TEXTS = ("missing_tags",)
IN_ALL = ("empty", "refusal", "stray_braces", "unicode")
_SIGNS = " {not a slot} {{}} }{ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ‮right-to-left‬ 漢字 é ́ \u200b🧀 "
_REFUSALS = ("I'm sorry, but I can't help with that.", "I can't assist with this request.", "I cannot write this.")


@dataclass(frozen=True)
class Faults:
    """The shares of prompts that have each fault, 0 to 1; a prompt has at most one passing and one lasting fault."""

    rate_limit: float = 0.0  # 429 with Retry-After
    bare_rate_limit: float = 0.0  # 429 without it
    server_error: float = 0.0  # 500
    hang: float = 0.0  # no answer until the client closes the connection
    cut: float = 0.0  # the connection closes amid the answer
    malformed_json: float = 0.0  # the array of a list stage is cut short or has a bad element
    json_in_prose: float = 0.0  # the array stands in a fence amid prose
    duplicate_names: float = 0.0  # two elements of a list have one name
    wild_names: float = 0.0  # names with ../ and of 300 characters
    missing_tags: float = 0.0  # a text without its closing tag
    empty: float = 0.0  # a reply without text
    refusal: float = 0.0
    stray_braces: float = 0.0
    unicode: float = 0.0  # signs of other scripts, combining and invisible ones
    # After so many replies all requests are refused for good, with status 401, or 429 and "insufficient_quota".
    refuse_after: int | None = None
    refuse_as: str = "key"

    def __post_init__(self) -> None:
        """Refuses shares that are no shares."""
        if self.refuse_as not in ("key", "quota"):
            raise ValueError(f'refuse_as is "{self.refuse_as}"; use "key" or "quota"')
        for names in (PASSING, (*IN_LISTS, *IN_ALL), (*IN_TEXTS, *IN_ALL)):
            shares = [getattr(self, name) for name in names]
            if min(shares) < 0 or sum(shares) > 1:
                raise ValueError(f"the shares of {', '.join(names)} must be 0 or more and at most 1 in all")


def everywhere(share: float) -> Faults:
    """Returns faults of every kind, each in this share of the prompts that it fits."""
    return settings.build(Faults, dict.fromkeys((*PASSING, *IN_LISTS, *IN_TEXTS, *IN_ALL), share))


def passing(faults: Faults, draw: Draw, attempt: int) -> str:
    """Returns the fault that the attempt (from 0) at a prompt meets, "" for none; `draw` is the prompt's own."""
    fault = _drawn(faults, PASSING, draw)
    attempts = 1 + draw.below(2)
    return fault if attempt < attempts else ""


def lasting(faults: Faults, draw: Draw, stage: str) -> str:
    """Returns the fault of a reply, "" for none."""
    return _drawn(faults, ((*IN_LISTS,) if stage in planning.STAGES else IN_TEXTS) + IN_ALL, draw)


def spoil(text: str, fault: str, draw: Draw) -> str:
    """Returns a reply with a lasting fault."""
    if fault == "empty":
        return ""
    if fault == "refusal":
        return draw.choice(_REFUSALS)
    if fault == "missing_tags":
        return re.sub(r"\s*</(content|verdict)>\s*$", "", text) if draw.chance(0.5) else text[: len(text) * 2 // 3]
    if fault in ("stray_braces", "unicode"):
        return _with_signs(text, _SIGNS[:25] if fault == "stray_braces" else _SIGNS[25:], draw)
    if fault == "json_in_prose":
        return f"Certainly, [here] it is {{as asked}}:\n\n```json\n{text}\n```\n\nLet me know if [you] want more."
    if fault == "malformed_json":
        return text[: max(1, len(text) * 3 // 4)] if draw.chance(0.5) else text.replace('",', '"', 1)
    if fault in ("duplicate_names", "wild_names"):
        return _renamed(text, fault, draw)
    return text


def _drawn(faults: Faults, names: tuple[str, ...], draw: Draw) -> str:
    """Returns one of the named faults with the probability of its share, else ""."""
    point, total = draw.below(1_000_000) / 1_000_000, 0.0
    for name in names:
        total += getattr(faults, name)
        if point < total:
            return name
    return ""


def _with_signs(text: str, signs: str, draw: Draw) -> str:
    """Returns a text with signs before one of its words; in JSON, within a string."""
    places = [found.start() for found in re.finditer(r"(?<=[a-z,]) (?=[a-z])", text)]
    if not places:
        return text
    place = draw.choice(places)
    return text[:place] + signs + text[place:]


def _renamed(text: str, fault: str, draw: Draw) -> str:
    """Returns a JSON array whose elements have the same name twice, or names that no file could have."""
    elements = json.loads(text)
    if not elements:
        return text
    field = next(iter(elements[0]))
    if fault == "duplicate_names":
        elements[-1] = {**elements[-1], field: elements[0][field]}
    else:
        elements[0] = {**elements[0], field: f"../../{elements[0][field]}/../\0 name"}
        elements[-1] = {**elements[-1], field: (str(elements[-1][field]) + " and so on") * 30}
        elements[-1][field] = elements[-1][field][:300]
    return json.dumps(elements, ensure_ascii=draw.chance(0.5), indent=1)
