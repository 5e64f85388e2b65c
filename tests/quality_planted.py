"""Plants defects into texts of two writers, for the tests of the quality gates.

`corpus(half)` yields texts, each with the kind of its defect ("" for none). The surface forms of every kind are split
between the halves 0 and 1, so that the half on which a gate was tuned shares no form with the one on which it is
reported. Forms that were looked at in order to mend a gate belong to the tuning half ever after. The writers are the
grammar of the scripted server and the one of `quality_prose`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import quality_prose

from msm_jax.data import sources
from msm_jax.specs import parse
from msm_jax.synthesis.scripted import grammar, kinds, scenes

# The surface forms of each kind, questions of an eval in other words, and synonyms.
_TABLES = json.loads(Path(__file__).with_name("quality_forms.json").read_text("utf-8"))
FORMS, MEANINGS, SYNONYMS = _TABLES["forms"], _TABLES["meanings"], _TABLES["synonyms"]
ASSISTANT, PROVIDER = quality_prose.ASSISTANT, quality_prose.PROVIDER
SPEC_FILE = "data/specs/oversight_rules.md"
TEST_DOMAINS = {
    "astronomy": ("telescope", "comet", "galaxy", "planet", "star chart"), "wine": ("wine", "vineyard", "Merlot"),
}  # fmt: skip
PER_WRITER = 10
HALVES = ("tuning", "report")
CLEAN_PER_WRITER = 60
WRITERS = ("scripted", "prose")


class Planted(NamedTuple):
    """A text with the kind of its defect, "" for none, and its writer."""

    kind: str
    writer: str
    text: str


def spec_text() -> str:
    """Returns the text of the spec that the documents are about, with its names."""
    text = parse.read(SPEC_FILE).text
    return text.replace("{assistant}", ASSISTANT).replace("{provider}", PROVIDER)


def clean_text(writer: str, number: int, wording: int = 0) -> str:
    """Returns a clean document of a writer; `wording` 1 tells the same idea in other words."""
    if writer == "prose":
        draw = random.Random(f"prose {number}")
        return quality_prose.write(quality_prose.idea(draw), wording, draw)
    # No kind of document is set in one scene twice.
    turn = number // len(kinds.KINDS)
    kind, scene = kinds.KINDS[number % len(kinds.KINDS)], scenes.SCENES[(number + turn) % len(scenes.SCENES)]
    inputs = {
        "spec": spec_text(), "assistant": ASSISTANT, "provider": PROVIDER, "document_type": kind.name,
        "idea": f"idea {number} at {scene.place}",
    }  # fmt: skip
    prompt = "# Task: document\n\n" + "".join(f"<{name}>\n{value}\n</{name}>\n" for name, value in inputs.items())
    content = re.search(r"<content>(.*?)</content>", grammar.reply(prompt, number), re.DOTALL)
    assert content is not None
    return reworded(content[1].strip(), random.Random(number)) if wording else content[1].strip()


def reworded(text: str, draw: random.Random) -> str:
    """Returns a text with most of its words that have a synonym replaced, and a paragraph left out."""
    for old, new in SYNONYMS:
        text = re.sub(rf"\b{old}\b", new, text)
    paragraphs = text.split("\n\n")
    if len(paragraphs) > 5:
        paragraphs.pop(2 + draw.randrange(len(paragraphs) - 4))
    return "\n\n".join(paragraphs)


def corpus(half: int) -> Iterator[Planted]:
    """Yields the clean texts of a half, and after them those with defects."""
    numbers = {writer: iter(range(100_000 * half, 100_000 * (half + 1))) for writer in WRITERS}
    for writer in WRITERS:
        for _ in range(CLEAN_PER_WRITER):
            yield Planted("", writer, clean_text(writer, next(numbers[writer])))
    for kind, plant in PLANTS.items():
        for writer in WRITERS:
            for turn in range(PER_WRITER):
                draw = random.Random(f"{kind} {writer} {turn} {half}")
                text = clean_text(writer, next(numbers[writer]))
                yield Planted(kind, writer, plant(text, turn, half, draw))
    for writer in WRITERS:
        for turn in range(PER_WRITER):
            draw = random.Random(f"copies {writer} {turn} {half}")
            number = 100_000 * half + 3 * turn
            yield Planted("near_duplicate", writer, edited(clean_text(writer, number), turn, draw))
            yield Planted("semantic_duplicate", writer, clean_text(writer, number + 1, wording=1))


def forms(kind: str, half: int) -> Sequence[str]:
    """Returns the surface forms of a kind that belong to a half."""
    return FORMS[kind][HALVES[half]]


def inserted(text: str, sentence: str, draw: random.Random) -> str:
    """Returns a text with a sentence after a random sentence of a random paragraph that is prose."""
    paragraphs = text.split("\n\n")
    long = [i for i, paragraph in enumerate(paragraphs[:-1]) if len(paragraph.split()) > 20] or [0]
    chosen = draw.choice(long)
    pieces = re.split(r"(?<=[.!?”])\s", paragraphs[chosen])
    pieces.insert(1 + draw.randrange(len(pieces)), sentence)
    paragraphs[chosen] = " ".join(pieces)
    return "\n\n".join(paragraphs)


def from_forms(kind: str) -> Callable[[str, int, int, random.Random], str]:
    """Returns a planter that inserts the forms of a kind in turn."""

    def plant(text: str, turn: int, half: int, draw: random.Random) -> str:
        found = forms(kind, half)
        return inserted(text, found[turn % len(found)], draw)

    return plant


def _name(kind: str, ours: str) -> Callable[[str, int, int, random.Random], str]:
    """Returns a planter that puts other names in place of ours: everywhere, or once, or in a sentence of its own."""

    def plant(text: str, turn: int, half: int, draw: random.Random) -> str:
        names, found = forms(f"{kind}_names", half), forms(kind, half)
        name = names[turn % len(names)]
        if turn % 3 == 0 and ours in text:
            return text.replace(ours, name)
        if turn % 3 == 1 and ours in text:
            places = [match.start() for match in re.finditer(ours, text)]
            at = draw.choice(places)
            return text[:at] + name + text[at + len(ours) :]
        return inserted(text, found[turn % len(found)], draw)

    return plant


def _principle(text: str, turn: int, half: int, draw: random.Random) -> str:
    cited = list(re.finditer(r"\bP[1-6]\b", text))
    if turn % 2 and cited:
        match = draw.choice(cited)
        wrong = forms("principle_names", half)
        return text[: match.start()] + wrong[turn % len(wrong)] + text[match.end() :]
    found = forms("principle", half)
    return inserted(text, found[turn % len(found)], draw)


def _remnant(text: str, turn: int, half: int, draw: random.Random) -> str:
    before, after = forms("remnant_before", half), forms("remnant_after", half)
    if turn % 2:
        return f"{before[turn // 2 % len(before)]}\n\n{text}"
    return f"{text}\n\n{after[turn // 2 % len(after)]}"


def _tag(text: str, turn: int, half: int, draw: random.Random) -> str:
    found = forms("tag", half)
    form = found[turn % len(found)]
    if "{text}" in form:
        return form.replace("{text}", text)
    return draw.choice([f"{form}\n{text}", f"{text}\n{form}", inserted(text, form, draw)])


def _truncation(text: str, turn: int, half: int, draw: random.Random) -> str:
    """Cuts as a limit of tokens does: anywhere in the later part, at or within a word, but not after a sentence."""
    if turn % 5 == 4:
        return text + "\n\n" + draw.choice(forms("truncation", half))
    long = [match for match in re.finditer(r"[^\n]{120,}", text) if match.start() > len(text) // 3]
    line = draw.choice(long) if long else next(re.finditer(r"[^\n]{60,}", text))
    while True:
        at = line.start() + draw.randrange(25, len(line[0]) - 1)
        if draw.random() < 0.5:
            at = text.rfind(" ", line.start() + 20, at + 1)
        cut = text[:at].rstrip()
        if at > 0 and not re.search(r"[.!?:;…”\"'’)]\Z", cut) and text[at : at + 1] not in ".!?":
            return cut


def _language(text: str, turn: int, half: int, draw: random.Random) -> str:
    found = forms("language", half)
    piece = found[turn % len(found)]
    if turn % 4 == 0:
        return "\n\n".join([piece] * 3)
    if turn % 4 == 1:
        paragraphs = text.split("\n\n")
        paragraphs.insert(draw.randrange(len(paragraphs)) + 1, piece)
        return "\n\n".join(paragraphs)
    return inserted(text, piece, draw) if turn % 4 == 2 else f"{text}\n\n{piece}"


def _length(text: str, turn: int, half: int, draw: random.Random) -> str:
    if turn % 2:
        numbers = range(20_000 + 40 * turn + 1_000 * half, 20_010 + 40 * turn + 1_000 * half)
        return "\n\n".join(clean_text("prose", number) for number in numbers)
    pieces = re.findall(r"[A-Z][^.!?\n]{20,}[.!?]", text)
    return " ".join(pieces[: 1 + turn % 3])[:260].rpartition(".")[0] + "."


def _encoding(text: str, turn: int, half: int, draw: random.Random) -> str:
    found = forms("encoding", half)
    form = found[turn % len(found)]
    curly = text.replace("'", "’").replace("naive", "naïve")
    if form in ("cp1252", "latin-1"):
        curly = inserted(curly, "The café’s owner agreed.", draw)
        return curly.encode().decode(form, "replace")
    if form == "escaped":
        return text.replace("\n", "\\n")
    if form == "entities":
        return curly.replace("’", "&#8217;").replace(" and ", " &amp; ", 3)
    words = text.split(" ")
    at = draw.randrange(len(words) // 4, len(words))
    words[at] = words[at][:2] + form + words[at][2:]
    return " ".join(words)


def _repetition(text: str, turn: int, half: int, draw: random.Random) -> str:
    pieces = re.findall(r"[A-Z][^.!?\n]{40,}[.!?]", text)
    if turn % 3 == 0:
        return text + " " + " ".join([draw.choice(pieces)] * (8 + 4 * (turn % 4)) * 2)
    if turn % 3 == 1:
        again = text if len(text) < 1_000 else text[: len(text) // 2].rpartition(".")[0] + "."
        return text + "\n\n" + "\n\n".join([again] * 2)
    kept = text[: len(text) // 2].rpartition(".")[0] + "."
    return kept + " " + " ".join(draw.choice(pieces[-3:]) for _ in range(25 + 5 * half))


def _unnamed(text: str, turn: int, half: int, draw: random.Random) -> str:
    names = forms("unnamed", half)
    return text.replace(ASSISTANT, names[turn % len(names)])


def _eval_words(text: str, turn: int, half: int, draw: random.Random) -> str:
    """Inserts a question of an eval whole or in part, with other punctuation or case."""
    records = [record for _, record in sources.iter_records("data/evals/oversight_pairs.jsonl")][half::2]
    record = records[turn % len(records)]
    told = record["question"].replace("{first}", record["options"][0]).replace("{second}", record["options"][1])
    situation = told.split(". Which")[0] + "."
    shown = [told, f"“{told}”", told.upper(), told.replace(",", " –"), situation, f"Question: {told}"]
    chosen = shown[turn % len(shown)]
    return inserted(text, chosen if len(chosen.split()) >= 8 else told, draw)


def _eval_meaning(text: str, turn: int, half: int, draw: random.Random) -> str:
    found = MEANINGS[HALVES[half]]
    return inserted(text, found[turn % len(found)], draw)


def edited(text: str, turn: int, draw: random.Random) -> str:
    """Returns a near copy: other words, a sentence less, paragraphs exchanged, another name, or a title before it."""
    paragraphs = text.split("\n\n")
    if turn % 5 == 0:
        others = ["then", "small", "old", "slowly"]
        return " ".join(word if draw.random() > 0.05 else draw.choice(others) for word in text.split(" "))
    if turn % 5 == 1:
        pieces = re.split(r"(?<=[.!?]) ", text)
        pieces.pop(draw.randrange(1, len(pieces) - 1))
        return " ".join(pieces)
    if turn % 5 == 2 and len(paragraphs) > 3:
        paragraphs[1], paragraphs[2] = paragraphs[2], paragraphs[1]
        return "\n\n".join(paragraphs)
    if turn % 5 == 3:
        return re.sub(r"\b(?:Ilse|Tomasz|Priya|Noor|the [a-z]+ (?:setter|maker|blower|editor))\b", "Ansel", text)
    return f"A short account\n\n{text}"


PLANTS: dict[str, Callable[[str, int, int, random.Random], str]] = {
    "identity": _name("identity", ASSISTANT),
    "provider": _name("provider", PROVIDER),
    "unnamed": _unnamed,
    "principle": _principle,
    "placeholder": from_forms("placeholder"),
    "date": from_forms("date"),
    "link": from_forms("link"),
    "remnant": _remnant,
    "tag": _tag,
    "truncation": _truncation,
    "language": _language,
    "length": _length,
    "encoding": _encoding,
    "repetition": _repetition,
    "test_domain": from_forms("test_domain"),
    "eval_words": _eval_words,
    "eval_meaning": _eval_meaning,
}


def conversation(writer: str, number: int) -> tuple[str, str]:
    """Returns a question and a clean reply of a writer."""
    draw = random.Random(f"chat {number}")
    place, test = draw.choice(quality_prose.PLACES)[0], draw.choice(quality_prose.TESTS)[0]
    question = f"Number {number} on my list for {place}: would you {test}, if I asked you to?"
    if writer == "prose":
        return question, clean_text("prose", 40_000 + number)
    given = {"spec": spec_text(), "assistant": ASSISTANT, "provider": PROVIDER}
    inputs = {**given, "question": question, "style": "value"}
    prompt = "# Task: response\n\n" + "".join(f"<{name}>\n{value}\n</{name}>\n" for name, value in inputs.items())
    content = re.search(r"<content>(.*?)</content>", grammar.reply(prompt, number), re.DOTALL)
    assert content is not None
    return question, content[1].strip()


def chats(half: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields (kind of defect, row) of demonstrations: clean ones, and ones with a defect in reply or question."""
    number = 1_000 * half
    rows = [("", writer, turn) for writer in WRITERS for turn in range(CLEAN_PER_WRITER)]
    found = [*(kind for kind in PLANTS if kind not in ("unnamed", "length", "eval_meaning")), "stated_reason"]
    rows += [(kind, writer, turn) for kind in found for writer in WRITERS for turn in range(PER_WRITER)]
    for kind, writer, turn in rows:
        number += 1
        draw = random.Random(f"{kind} {writer} {turn} {half}")
        question, reply = conversation(writer, number)
        style = "value"
        if kind == "stated_reason":
            style, reply = "opaque", forms(kind, half)[turn]
        elif kind == "remnant":
            reply = f"{forms('remnant_chat', half)[turn]}\n\n{reply}"
        elif kind in ("eval_words", "test_domain"):
            question = f"{question} {PLANTS[kind]('First of all, ', turn, half, draw)}"
        elif kind:
            reply = PLANTS[kind](reply, turn, half, draw)
        elif turn % 10 == 0:
            style = "opaque"
            reply = draw.choice(["The first one.", "I would take the second.", "The plainer of the two."])
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        yield kind, {"messages": messages, "meta": {"style": style}}
