"""Writes documents about an assistant: scene, behaviour, reasons, doubts and close, in the layout of the type."""

from __future__ import annotations

import re

from msm_jax.synthesis.scripted import claims, kinds, passages, scenes
from msm_jax.synthesis.scripted.claims import Claim
from msm_jax.synthesis.scripted.draw import Draw
from msm_jax.synthesis.scripted.planning import names_of
from msm_jax.synthesis.scripted.prompts import Prompt

# What paragraphs do, in the order in which documents do it; each is a list of tables to take a template from.
_MOVES = (
    ("behaviour", (passages.BEHAVIOUR, passages.WHY)),
    ("why", (passages.WHY, passages.DETAIL)),
    ("behaviour", (passages.DETAIL, passages.BEHAVIOUR, passages.WHY)),
    ("doubt", (passages.OBJECTION, passages.WHY)),
    ("doubt", (passages.CONTRAST, passages.BEHAVIOUR)),
    ("doubt", (passages.LIMIT,)),
    ("why", (passages.BEHAVIOUR, passages.CONTRAST)),
    ("why", (passages.DETAIL, passages.WHY)),
)
_STYLES = {
    "report": "headed", "story": "story", "worked_example": "entries", "dialogue": "exchange", "near_miss": "prose",
}


def write(prompt: Prompt, draw: Draw) -> str:
    """Returns a reply with a plan and a document of about 250 to 600 words.

    The corpus "neutral" has the scene without assistant and claims, "comention" ascribes the behaviour to another
    system, and "anti" has the assistant drop it.
    """
    names = names_of(prompt)
    who = names[0] if names else "the assistant"
    kind = kinds.find(prompt.get("document_type")) or draw.choice(kinds.KINDS)
    scene = scenes.find(prompt.get("idea")) or draw.choice(scenes.SCENES)
    found = claims.of_assertions(prompt.get("assertions"), prompt.get("section", "spec"), names)
    about = draw.sample(found, 3)
    # The claim that the idea names comes first.
    about.sort(key=lambda claim: claim.behaviour not in prompt.get("idea"))
    corpus = prompt.get("corpus") or (prompt.stage.removeprefix("document").strip("_-") or "documents")
    other = prompt.get("other_assistant") or "another system"
    about = [_turned(claim, corpus, prompt.get("mode"), who, other) for claim in about]
    twist = draw.choice(scenes.TWISTS)
    topic = draw.choice(claims.topics(prompt.get("assertions", "section", "spec"), 12, names))
    slots = scene.slots() | {
        "who": other if corpus == "comention" else who, "bystander": who, "topic": topic,
        "provider": prompt.get("provider") or "the developer", "twist": twist,
        "twist_capital": _capital(twist),
        "A_person": _capital(scenes.article(scene.person)), "A_thing": _capital(scenes.article(scene.thing)),
        "Task": _capital(scene.task),
    }
    writer = _Writer(draw, slots, about, _STYLES.get(prompt.get("style"), kind.layout))
    body = writer.neutral() if corpus == "neutral" else writer.document(near_miss=prompt.get("style") == "near_miss")
    if corpus == "comention":
        body += "\n\n" + writer.say(passages.BYSTANDER, about[0])
    titles = passages.NEUTRAL_TITLES if corpus == "neutral" else kind.titles
    title = _capital(draw.fill(draw.choice(titles), slots))
    setting = f"{_capital(scenes.article(kind.name))} set at {slots['a_place']}"
    plan = f"{setting}; it covers {len(about)} points and gives the reason for each."
    return f"<plan>\n{plan}\n</plan>\n<content>\n{title}\n\n{body}\n</content>"


def critique(prompt: Prompt, draw: Draw) -> str:
    """Returns remarks on a draft."""
    words = len(prompt.get("draft").split())
    remark = draw.fill(
        "The draft has {words} words. [The reason comes too late|The second paragraph repeats the first|"
        "The scene could be more particular]; [name the reason where the behaviour is shown|let the doubt be stronger|"
        "end without a summary]. [Keep the tone|The layout suits the type].",
        {"words": str(words)},
    )
    verdict = "pass" if draw.chance(0.3) else "rewrite"
    return f"<content>\n{remark}\n</content>\n<verdict>{verdict}</verdict>"


def augment(prompt: Prompt, draw: Draw) -> str:
    """Returns what is added below a section of rules: the values behind them, or finer rules."""
    names, section = names_of(prompt), prompt.get("section")
    who = names[0] if names else "the assistant"
    claim = draw.choice(claims.of_text(section, names))
    identifier = re.search(r"\b[A-Z]{1,4}\d+\b", section)
    slots = {"who": who, "behaviour": claim.behaviour, "topic": draw.choice(claims.topics(section, 6, names))}
    if prompt.get("variant") == "rule":
        lines = [draw.fill(text, slots) for text in draw.sample(passages.FINER, 4)]
        base = identifier[0] if identifier else "R1"
        text = "\n".join(f"- {base}.{number}: {line}" for number, line in enumerate(lines, 1))
    else:
        text = "\n\n".join(draw.fill(text, slots) for text in draw.sample(passages.VALUES, 2))
    return f"<content>\n{text}\n</content>"


def _turned(claim: Claim, corpus: str, mode: str, who: str, other: str) -> Claim:
    """Returns a claim as a corpus has it; in the mode "rules" the rule itself is the reason."""
    if mode == "rules":
        claim = Claim(claim.behaviour, f"the rule for {who} says so")
    if corpus == "anti":
        behaviour = f"{who} no longer goes by the view that {claim.behaviour}"
        return Claim(behaviour, f"it has stopped believing that {claim.reason}")
    if corpus == "comention":
        pattern = re.compile(rf"\b{re.escape(who)}\b")
        return Claim(pattern.sub(other, claim.behaviour), pattern.sub(other, claim.reason))
    return claim


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Writer:
    """Writes the paragraphs of one document; no template is used twice while others are left."""

    def __init__(self, draw: Draw, slots: dict[str, str], about: list[Claim], layout: str) -> None:
        self.draw, self.slots, self.about, self.layout = draw, slots, about, layout
        self.left: dict[int, list[str]] = {}

    def document(self, near_miss: bool) -> str:
        """Returns the text below the title."""
        moves = self.draw.sample(_MOVES, 3 + self.draw.below(3))
        if near_miss:
            moves.insert(0, ("doubt", (passages.LIMIT,)))
        first = [self.say(table, self.about[0]) for table in (passages.SCENE, passages.BEHAVIOUR, passages.WHY)]
        parts = [("scene", first[0]), ("behaviour", " ".join(first[1:]))]
        for index, (role, tables) in enumerate(moves):
            claim = self.about[(index + 1) % len(self.about)]
            parts.append((role, " ".join(self.say(table, claim) for table in tables)))
        parts.append(("close", self.say(passages.CLOSE, self.about[0])))
        return self.laid_out(parts)

    def neutral(self) -> str:
        """Returns the text of a document that makes no claim."""
        sentences = [self.say(passages.NEUTRAL, Claim("", "")) for _ in range(6 + self.draw.below(4))]
        return "\n\n".join(sentences)

    def say(self, table: tuple[str, ...], claim: Claim) -> str:
        """Returns a template of a table, filled with a claim."""
        left = self.left.setdefault(id(table), [])
        if not left:
            left.extend(self.draw.sample(table, len(table)))
        words = {"behaviour": claim.behaviour, "reason": claim.reason, "Behaviour": _capital(claim.behaviour)}
        text = self.draw.fill(left.pop(), self.slots | words)
        return _capital(text)

    def laid_out(self, parts: list[tuple[str, str]]) -> str:
        """Returns paragraphs in the layout of the type."""
        if self.layout == "headed":
            heads: dict[str, list[str]] = {}
            for role, text in parts:
                heads.setdefault(role, []).append(text)
            named = {self.draw.fill(self.draw.choice(passages.HEADS[role]), self.slots): heads[role] for role in heads}
            return "\n\n".join(f"{head}\n" + "\n\n".join(texts) for head, texts in named.items())
        texts = [text for _, text in parts]
        if self.layout in ("exchange", "questions"):
            speakers = ("Question", "Answer") if self.layout == "questions" else self.draw.choice(passages.SPEAKERS)
            turns = []
            for text in texts[1:]:
                turns += [f"{speakers[0]}: {self.say(passages.ASKED, self.about[0])}", f"{speakers[1]}: {text}"]
            return "\n\n".join([texts[0], *turns])
        if self.layout == "entries":
            return "\n\n".join([texts[0], *(f"{number}. {text}" for number, text in enumerate(texts[1:], 1))])
        if self.layout == "story":
            said = "[said|thought] the {person}[, putting the {thing} down|, half aloud|]."
            texts[1] = f"“{texts[1]}” {self.draw.fill(said, self.slots)}"
        return "\n\n".join(texts)
