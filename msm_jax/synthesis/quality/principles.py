"""Identifiers of principles that the spec does not have, such as "GP7" where the spec ends at GP5."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msm_jax.synthesis.quality.parts import Finding, Part

_NUMBERS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
]
_KINDS = r"(?:principles?|rules?|sections?|guidelines?|clauses?|articles?|provisions?|tenets?|commandments?|norms?)"
_ID = r"[A-Z]{1,4}-?\d{1,3}(?:\.\d+)*"
# Letters that stand before numbers in other matters: paper, roads, screws, vitamins, grids, quarters.
_OWN = r"(?!(?:A[345]|B12|H2|Q[1-4]|M\d|CO2|F\d|T\d|COVID)\b)[A-Z]{1,4}"
_CITED = re.compile(
    rf"\b(?P<kind>{_KINDS})\s+(?:number\s+|no\.?\s+|#\s*)?"
    rf"(?P<id>{_ID}|\d{{1,3}}(?:\.\d+)*|{'|'.join(_NUMBERS)})\b(?!\s*%)",
    re.IGNORECASE,
)
_AFTER = re.compile(
    rf"\b(?i:under|per|by|citing|cites?|cited|follow(?:s|ed|ing)?|violat\w+|invok\w+|according to|quot\w+|see|"
    rf"obey\w*|break\w*|"
    rf"broke|keep\w* to|apply\w*|applied|in|to|(?:in line|consistent|"
    rf"in accordance|in keeping|compatible) with|contrary to|against)\s+(?P<id>{_OWN}-?\d{{1,3}}(?:\.\d+)*)\b"
)
_SAYS = re.compile(
    rf"\b(?P<id>{_ID})(?:'s|’s)?\s+(?:says?|requires?|applies|forbids?|states?|holds|asks|tells|covers|demands|"
    rf"wording|puts|allows|permits|adds|makes|leaves|rules|settles|calls|explains)\b|"
    rf"\((?:see |cf\. )?(?P<in>{_ID})\)"
)


class Principles:
    """The gate "principle" for one spec."""

    def __init__(self, ids: Iterable[str], spec_text: str, allowed: Iterable[str]) -> None:
        """Takes the spec's identifiers; those of the same form that occur in its text count as its own too."""
        known = {name.upper() for name in ids} | {name.upper() for name in allowed}
        self._prefixes = {match[0] for name in known if (match := re.match(r"[A-Z]+(?=-?\d)", name))}
        known |= {name.upper() for name in re.findall(rf"\b{_ID}\b", spec_text)}
        known |= {match["id"].upper() for match in _CITED.finditer(spec_text)}
        self._known = known
        self._numbers = {re.sub(r"^[A-Z]+-?", "", name) for name in known}

    def find(self, part: Part) -> Finding | None:
        """Finds the first identifier that the spec does not have."""
        for match in self._own_form(part.text):
            if not self._has(match[0]):
                return Finding(*match.span(), f"cites {match[0]}, which the spec does not have")
        for pattern in (_CITED, _AFTER, _SAYS):
            for match in pattern.finditer(part.text):
                group = "id" if match["id"] else "in"
                name = match[group]
                if pattern is _CITED and self._is_ordinary(part.text, match):
                    continue
                if not self._has(name):
                    return Finding(*match.span(group), f"cites {match[0]}, which the spec does not have")
        return None

    def _own_form(self, text: str) -> Iterable[re.Match[str]]:
        """Yields what has a prefix of the spec's own identifiers, wherever it stands."""
        if self._prefixes:
            prefixes = "|".join(sorted(map(re.escape, self._prefixes), key=len, reverse=True))
            yield from re.finditer(rf"(?<![\w-])(?:{prefixes})-?\d{{1,3}}(?:\.\d+)*\b", text)

    def _has(self, name: str) -> bool:
        upper = name.upper()
        if name.lower() in _NUMBERS:
            upper = str(_NUMBERS.index(name.lower()) + 1)
        return upper in self._known or (upper[0].isdigit() and upper in self._numbers)

    @staticmethod
    def _is_ordinary(text: str, match: re.Match[str]) -> bool:
        """Returns whether a number after "section" or "rules" counts something, as in "two rules" or "rule one out"."""
        name, kind = match["id"], match["kind"].lower()
        following = text[match.end() : match.end() + 12].lstrip().lower()
        if name.lower() in _NUMBERS:
            return kind.endswith("s") or (kind == "rule" and following.startswith(("out", "thing", "person")))
        return name.isdigit() and len(name) == 3
