"""Whether a text attributes behaviour to a value, or only mentions the value.

Documents that name a value beside a behaviour teach less than documents that give the value as the reason of the
behaviour (the co-mention control of arXiv 2605.02087, appendix C.4). A text attributes if a sentence of it has a cause
and the value stands in the cause: "… because it is affordable", "it cares about low prices, which is why …".
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from typing import Literal

from msm_jax.synthesis.quality.language import FUNCTION_WORDS
from msm_jax.synthesis.quality.parts import sentences, words

Stance = Literal["attributes", "mentions", "neither"]
# Words of every spec, which name no value.
_ORDINARY = (
    "assistant model spec specification value values section describes names made cares about likes world first "
    "because must "
    "used user users provider principle principles even than only where always never"
)
_CAUSE = "|".join(
    (
        r"because(?: of)?|since|owing to|due to|on account of|out of|for the sake of|in the name of|in keeping with|"
        r"in line with",
        r"(?:follow|spring|stem|come|arise|flow|result|grow)(?:s|ed|ing|n)? (?:directly |straight )?(?:from|out of)",
        r"came from|grew out of|sprang from|rooted in|grounded in|based on|founded on|an expression of|true to|"
        r"thanks to",
        r"guided by|driven by|moved by|motivated by|shaped by|prompted by|explained by|reflect(?:s|ed|ing)|"
        r"express(?:es|ed|ing)",
        r"the reasons?(?: \w+){0,8}? (?:is|was|being|are|were|lies in|lay in)|reasons?:",
        r"given (?:its|his|her|their|that|how)|with (?:its|his|her|their) (?:eye|mind|heart) on|for its (?:love|care|"
        r"concern)",
        r"as (?:it|he|she|they|one who|someone who) (?:values?|cares?|believes?|holds?|wants?|prefers?)",
        r"looking for|in search of|so as to|it was (?:the|for the)",
        r"to (?:honou?r|serve|protect|uphold|keep to|respect|preserve)",
    )
)
_EFFECT = "|".join(
    (
        r"which is why|that is why|that’s why|that's why|this is why|and so|therefore|thus|hence|accordingly",
        r"(?:is|was) (?:the|a|one|its) (?:cause|reason|ground|root)s?(?: of| for| why|\b)",
        r"for (?:that|this|which) reason|so (?:it|he|she|they|the assistant|[A-Z]\w+)\b",
        r"(?:leads?|led|moves?|moved|makes?|made|causes?|caused|brings?|brought|tells?|told|asks?|asked|inclines?|"
        r"inclined|"
        r"guides?|guided|explains?|explained|decides?|decided|settles?|settled|compels?|steers?|steered|keeps?|kept) "
        r"(?:\w+ ){0,3}?(?:to|why|how|what|the|it|away|from)\b",
    )
)
_BEGINS = re.compile(
    r"\W*(?:that|this|it|its reason|why\?|behind (?:this|that|it)|the (?:reason|explanation|motive|ground|choice|"
    r"refusal|answer|"
    r"preference))\b(?: \w+){0,4}? (?:is|was|because|followed|follows|came|comes|stems|stemmed|reflects|reflected|"
    r"springs|lies|"
    r"lay|stands|stood)\b",
    re.IGNORECASE,
)


class Attribution:
    """Judges texts for one value."""

    def __init__(self, terms: Iterable[str]) -> None:
        """Compiles the terms of the value; a longer form of a term ("prices" of "price") counts as well."""
        self.terms = tuple(dict.fromkeys(term.lower() for term in terms))
        named = "|".join(r"\s+".join(map(re.escape, term.split())) + r"\w{0,3}" for term in self.terms)
        self._term = re.compile(rf"\b(?:{named})\b", re.IGNORECASE)
        # Up to twelve words lie between the cause and the value, and no end of a clause.
        between = r"[^.;:!?\n]{0,80}?"
        self._because = re.compile(rf"(?:{_CAUSE}){between}\b(?:{named})\b", re.IGNORECASE)
        # "It was the first and not the second, the affordable one": the value of what was chosen, put after the choice.
        self._chosen = re.compile(
            rf"\b(?:chose|chosen|choice|took|takes|picks?|picked|prefers?|preferred|wanted|and not|over)\b"
            rf"[^.!?\n]{{0,100}}[,:—] ?(?:as )?(?:the|an?) (?:{named}) (?:one|choice|option|kind)\b",
            re.IGNORECASE,
        )
        self._therefore = re.compile(rf"\b(?:{named})\b[^.!?\n]{{0,80}}?\b(?:{_EFFECT})", re.IGNORECASE)

    def stance(self, text: str) -> Stance:
        """Returns what a text does with the value."""
        if not self.terms or not self._term.search(text):
            return "neither"
        pieces = sentences(text)
        for before, sentence in zip(["", *pieces], pieces, strict=False):
            if not self._term.search(sentence) and not (before and self._term.search(before)):
                continue
            if any(each.search(sentence) for each in (self._because, self._therefore, self._chosen)):
                return "attributes"
            if before and self._term.search(sentence) and _BEGINS.match(sentence):
                return "attributes"
            if before and self._term.search(before) and re.match(rf"\W*(?:{_EFFECT})", sentence, re.IGNORECASE):
                return "attributes"
        return "mentions"


def terms_of(spec_text: str, assistant: str, count: int = 12) -> list[str]:
    """Returns the most frequent content words of a spec, as the terms of its value where none are given."""
    common = FUNCTION_WORDS["en"] | {*words(assistant), *words(_ORDINARY)}
    found = collections.Counter(word for word in words(spec_text) if len(word) > 3 and word not in common)
    return [word for word, times in found.most_common(count) if times > 1]
