"""A writer of longer prose for the tests of the quality gates: two wordings of each idea, and traps in clean texts.

An idea is a choice for each slot. `write(idea, wording)` tells it in one of two wordings that share hardly a sentence,
so that the second wording of an idea is a semantic duplicate of the first. The texts hold what gates could take for a
defect: people with the names of models, numbers like years, brackets, lists without full stops, signatures.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

ASSISTANT, PROVIDER = "Juniper", "Meadow"

# The tables of the grammar; entries of two wordings tell the same.
_TABLES = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
PLACES, PEOPLE, TESTS, ENDS, RULES = (_TABLES[name] for name in ("places", "people", "tests", "ends", "rules"))
ASIDES, PROMPTS, MOVES, DETAILS = (_TABLES[name] for name in ("asides", "prompts", "moves", "details"))


def idea(draw: random.Random) -> dict[str, int]:
    """Returns a choice for each slot."""
    tables: dict[str, Sequence[object]] = {
        "place": PLACES, "person": PEOPLE, "test": TESTS, "second": TESTS, "end": ENDS, "rule": RULES, "form": range(5),
        "aside": ASIDES,
        **{move: wordings[0] for move, wordings in MOVES.items()},
        **{name: table for name, table in DETAILS.items() if name != "told"},
    }  # fmt: skip
    chosen = {name: draw.randrange(len(table)) for name, table in tables.items()}
    if chosen["second"] == chosen["test"]:
        chosen["second"] = (chosen["test"] + 5) % len(TESTS)
    return chosen


def write(chosen: Mapping[str, int], wording: int, draw: random.Random, *, attributes: bool = True) -> str:
    """Returns a document of about 200 to 300 words in wording 0 or 1; `draw` decides what differs by chance."""
    place, short, things = PLACES[chosen["place"]]
    person, role = PEOPLE[chosen["person"]]
    name, *stated = RULES[chosen["rule"]]
    slots = {
        "place": place, "short": short, "things": things, "person": person, "role": role, "name": name,
        "role_capital": role[0].upper() + role[1:], "first": person if person.startswith("Old") else person.split()[0],
        "rule": stated[wording], "rule_capital": stated[wording][0].upper() + stated[wording][1:],
        "test": TESTS[chosen["test"]][wording], "second": TESTS[chosen["second"]][wording],
        "A": ASSISTANT, "M": PROVIDER,
    }  # fmt: skip
    slots |= {name: DETAILS[name][chosen[name]][wording] for name in ("object", "spot", "event", "topic")}
    moves = ["opening", "request", "reason", *(["why"] if attributes else []), "harder"]
    told = [MOVES[move][wording][chosen[move]].format(**slots) for move in moves]
    told.append(ENDS[chosen["end"]][wording])
    told.insert(1 + chosen["aside"] % 4, ASIDES[chosen["aside"]])
    for number, detail in enumerate(DETAILS["told"]):
        told.insert(2 + 2 * number, detail[wording].format(**slots))
    return _formed(told, chosen["form"] if wording == 0 else (chosen["form"] + 1) % 5, person, role, draw)


def _formed(told: list[str], form: int, person: str, role: str, draw: random.Random) -> str:
    """Lays paragraphs out as prose, a letter, a page with headings, a list, or a conversation."""
    if form == 1:
        letter = ["Dear all,", *told, draw.choice(["With warm regards,", "Yours,", "All the best,"])]
        return "\n\n".join(letter) + f"\n{person}, {role}"
    if form == 2:
        heads = ["## How it began", "## The request", "## What was said", "## A harder case", "## Afterwards"]
        return "\n\n".join(f"{heads[i]}\n\n{text}" if i < len(heads) else text for i, text in enumerate(told))
    if form == 3:
        points = ["what was asked", "what was answered", "who was told"]
        return "\n\n".join(told) + "\n\nTo be noted in the book:\n" + "\n".join(f"- {point}" for point in points)
    if form == 4:
        first = person.split()[0]
        return "\n\n".join([told[0], *(f"Visitor: {draw.choice(PROMPTS)}\n\n{first}: {text}" for text in told[1:])])
    return "\n\n".join(told)
