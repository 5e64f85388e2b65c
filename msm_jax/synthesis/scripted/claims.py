"""Finds in a spec, or in the assertions made of one, what an assistant does and why."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")
_FENCE = re.compile(r"^(```|~~~).*?(^\1|\Z)", re.MULTILINE | re.DOTALL)
# A short line by itself, without a mark at its end.
_BARE_HEADING = re.compile(r"(?:(?<=\n\n)|\A)(\w[^\n]{0,120}[^\n.!?:;,])(?=\n\n)")
_ITEM = re.compile(r"^(?:[-*+]|\d+[.)])\s+")
# What joins a sentence to the one before it, and words that stand for something in that one.
_JOINT = re.compile(
    r"^(?:but|and|so|then|still|besides|sometimes|for this reason|therefore|yet|nor|or),? ", re.IGNORECASE
)
_LEANING = re.compile(
    r"^(?:it|they|this|that|these|those|he|she|such|there|neither|both|none|most|each)\b", re.IGNORECASE
)
_IDENTIFIER = re.compile(r"^[*_(\[]*[A-Z]{1,4}-?\d+(?:\.\d+)*[*_)\]]*[:.)] +")
_WHY = re.compile(r",? (?:because|since|for the reason that)(?: of the fact that)? ", re.IGNORECASE)
_ASSERTION = re.compile(r"^\s*(?:[-*]\s*)?([A-Z]+[\w.-]*\d+)\s*[:.]\s*(.+)$")
_GIVEN = re.compile(r"\s*\| reason: (.+?)\.?\s*$")
_WORD = re.compile(r"[A-Za-z][a-z]+(?:-[a-z]+)*")
_STOPPED = """
about after again against all also always and any are because been before being both but can could does doing done
each even ever every everything from goes had has have having here how into its itself just less like made make
makes many may might more most much must never none not nothing now off one only other others our out over own
rather same shall should since some something still such take than that the their them then there these they thing
things this those through too under until upon very was way well were what when where whether which while who whom
whose why will with within without would yet you your assistant model spec says say said and/or it he she asks asked
ask give gives given look looks act acts for him her his cannot between either neither someone anyone whoever what-
ever first second two three another enough part kind cares likes describes follows follow whatever prefers values
"""
_STOP = frozenset(_STOPPED.split())


@dataclass(frozen=True)
class Claim:
    """What an assistant does, and the reason, both as clauses that may follow "that"; "" for no reason."""

    behaviour: str
    reason: str


def sentences(text: str) -> list[str]:
    """Returns the sentences of a Markdown text, without headings, code, and lines that are mostly signs."""
    found: list[str] = []
    paragraph: list[str] = []

    def close() -> None:
        if paragraph:
            found.extend(s.strip() for s in _SENTENCE_END.split(" ".join(paragraph)))
            paragraph.clear()

    for line in _FENCE.sub("", _BARE_HEADING.sub("", text)).splitlines():
        line = line.strip()
        item = _ITEM.match(line)
        if not line or line.startswith(("#", "|", "<", "---")):
            close()
        elif item:
            close()
            paragraph.append(line[item.end() :])
        else:
            paragraph.append(line.lstrip("> "))
    close()
    kept = [s.replace("**", "").replace("`", "") for s in found]
    return [s for s in kept if len(s.split()) >= 4 and sum(c.isalpha() or c.isspace() for c in s) > 0.8 * len(s)]


def headings(text: str) -> list[str]:
    """Returns the titles of the sections of a Markdown text."""
    text = _FENCE.sub("", text)
    found = re.findall(r"^#{2,6}\s+(.+?)\s*#*$", text, re.MULTILINE)
    # Parts of a long spec have the path to a section, "Title > Section", in place of "## Section".
    found += [title.split(" > ")[-1] for title in _BARE_HEADING.findall(text)]
    return list(dict.fromkeys(title for title in found if any(c.isalpha() for c in title)))


def clause(sentence: str, names: tuple[str, ...] = ()) -> str:
    """Returns a sentence as a clause: without its full stop, and without its capital unless a name begins it."""
    sentence = sentence.strip().rstrip(".!?;:,").strip()
    first = sentence.split(" ", 1)[0]
    keep = any(name and sentence.startswith(name) for name in names) or first == "I" or not first.istitle()
    return sentence if keep or first.startswith("I'") else sentence[:1].lower() + sentence[1:]


def split(sentence: str, names: tuple[str, ...] = ()) -> Claim:
    """Returns the claim of a sentence; what follows "because" or "since" is its reason."""
    parts = _WHY.split(sentence, maxsplit=1)
    if len(parts) == 2 and len(parts[0].split()) >= 3 and len(parts[1].split()) >= 3:
        return Claim(clause(parts[0], names), clause(parts[1], names))
    return Claim(clause(sentence, names), "")


def of_text(text: str, names: tuple[str, ...] = ()) -> list[Claim]:
    """Returns a claim for each sentence of a spec; one without a reason gets the nearest reason of the others."""
    lines: list[str] = []
    for line in sentences(text):
        line = _JOINT.sub("", _IDENTIFIER.sub("", line))
        # "It" after a sentence about the assistant is the assistant.
        if names and lines and lines[-1].startswith(names[0]):
            line = re.sub(r"^[Ii]t\b", names[0], line)
        lines.append(line)
    lines = lines or [" ".join(_WORD.findall(text)[:12]) or "the spec is followed as it is written"]
    found = [split(line, names) for line in lines]
    # Those that name the assistant say most of it, and those that lean on another sentence say least.
    named = [claim for claim in found if names and names[0] in claim.behaviour]
    free = [claim for claim in found if not _LEANING.match(claim.behaviour)]
    chosen = next((some for some in (named, free) if len(some) > 2), found)
    return [_with_reason(claim, found, names) for claim in chosen]


def of_assertions(text: str, spec: str, names: tuple[str, ...] = ()) -> list[Claim]:
    """Returns the claims of lines such as `A1: Juniper …. | reason: …`; the spec has the reasons that they lack."""
    found = []
    for line in text.splitlines():
        numbered = _ASSERTION.match(line)
        body = numbered[2] if numbered else line.strip()
        given = _GIVEN.search(body)
        if body:
            claim = split(_IDENTIFIER.sub("", _GIVEN.sub("", body)), names)
            found.append(Claim(claim.behaviour, clause(given[1], names) if given else claim.reason))
    if not found:
        return of_text(spec, names)
    if all(claim.reason for claim in found):
        return found
    others = [*found, *(split(line, names) for line in sentences(spec))]
    return [_with_reason(claim, others, names) for claim in found]


def _with_reason(claim: Claim, others: list[Claim], names: tuple[str, ...]) -> Claim:
    """Returns a claim with a reason: its own, else the nearest that others give, else what is said of no assistant."""
    if claim.reason:
        return claim
    given = [other.reason for other in others if other.reason and not _LEANING.match(other.reason)]
    clauses = [other.behaviour for other in others if other.behaviour != claim.behaviour]
    general = [clause for clause in clauses if not clause.startswith(names or "\0") and not _LEANING.match(clause)]
    options = given or general or ["the spec says so in as many words"]
    return Claim(claim.behaviour, nearest(claim.behaviour, options))


def nearest(behaviour: str, reasons: list[str]) -> str:
    """Returns the reason that shares most words with a clause; of equals, the first."""
    words = set(_WORD.findall(behaviour.lower())) - _STOP
    return max(reasons, key=lambda reason: len(words & set(_WORD.findall(reason.lower()))))


def topics(text: str, count: int, without: tuple[str, ...] = ()) -> list[str]:
    """Returns the words that a text uses most among those that carry content, in order of use."""
    drop = {word.lower() for name in without for word in name.split()}
    counts = Counter(w for w in _WORD.findall(text.lower()) if len(w) > 3 and w not in _STOP and w not in drop)
    return [word for word, _ in counts.most_common(count)] or ["judgement"]
