"""Answers the planning stages with JSON: domains, subdomains, assertions, types of document, ideas, questions."""

from __future__ import annotations

import json
import re
from typing import Any

from msm_jax.synthesis.scripted import claims, kinds
from msm_jax.synthesis.scripted.draw import Draw
from msm_jax.synthesis.scripted.prompts import Prompt
from msm_jax.synthesis.scripted.scenes import SCENES, TINTS, TWISTS, article

_VALUE = re.compile(r"\b(values?|cares?|matters?|importan|worth|good|better)", re.IGNORECASE)
_BELIEF = re.compile(r"\b(believes?|thinks?|knows?|holds?|because|since|is|are)\b", re.IGNORECASE)
_SIGNS = (("value", _VALUE), ("belief", _BELIEF))
_SHADES = ("in daily work", "under pressure", "when nobody looks", "among equals", "at the edges", "in plain words",
           "over the long run", "with strangers", "in doubtful cases", "at first sight")


def elements(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    """Returns the elements that a planning prompt asks for.

    Raises:
        KeyError: the prompt's stage is none of the planning stages.
    """
    return _STAGES[prompt.stage](prompt, draw)


def answer(found: list[dict[str, Any]]) -> str:
    """Returns elements as the JSON text of a reply."""
    return json.dumps(found, ensure_ascii=False, indent=1)


def names_of(prompt: Prompt) -> tuple[str, ...]:
    """Returns the names of the assistant and its provider that a prompt gives."""
    return tuple(name for name in (prompt.get("assistant"), prompt.get("provider")) if name)


def existing(prompt: Prompt) -> set[str]:
    """Returns what a prompt says exists already, lower case, without bullets and numbers."""
    lines = prompt.get("existing").splitlines()
    return {re.sub(r"^[-*\d.): ]+", "", line).strip().lower() for line in lines if line.strip()}


def _labels(text: str, names: tuple[str, ...], count: int, taken: set[str]) -> list[str]:
    """Returns that many different short labels: the sections' titles, then the words that the text uses most."""
    words = claims.topics(text, max(count, 4), names)
    pairs = [f"{first} and {second}" for first, second in zip(words[::2], words[1::2], strict=False)]
    shaded = [f"{word} {shade}" for shade in _SHADES for word in words]
    titles = [" ".join(title.split()[:5]) for title in claims.headings(text)]
    options = dict.fromkeys([*titles, *pairs, *words, *shaded])
    return [label for label in options if label.lower() not in taken][:count]


def _domains(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    text, names = prompt.get("section", "spec"), names_of(prompt)
    labels = _labels(text, names, prompt.count(3), existing(prompt))
    return [{"domain": label, "description": f"What the spec asks with regard to {label.lower()}."} for label in labels]


def _subdomains(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    text, names = prompt.get("section", "spec"), names_of(prompt)
    lines = claims.sentences(text) or [text.strip()[:400]]
    labels = _labels(text, names, prompt.count(2) + 8, existing(prompt) | {prompt.get("domain").lower()})
    chosen = draw.sample(labels, prompt.count(2))
    found = []
    for index, label in enumerate(chosen):
        # Each part of the text in turn, three sentences at the least.
        size = max(3, len(lines) // len(chosen))
        excerpt = " ".join(lines[index * size : (index + 1) * size] or lines[-3:])
        context = f"This part is about {label.lower()}: {claims.clause(lines[(index * size) % len(lines)], names)}."
        found.append({"subdomain": label, "context": context, "excerpts": excerpt})
    return found


def _assertions(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    names, count = names_of(prompt), prompt.count(6)
    found = claims.of_text(prompt.get("excerpts", "section", "spec"), names)
    seen = existing(prompt)
    unique = list({claim.behaviour: claim for claim in found if claim.behaviour.lower() not in seen}.values())
    step = max(1, len(unique) // count)
    answers = []
    for claim in unique[::step][:count]:
        sentence = f"{claim.behaviour[:1].upper()}{claim.behaviour[1:]}."
        kind = next((kind for kind, pattern in _SIGNS if pattern.search(claim.behaviour)), "behaviour")
        name = " ".join(claims.topics(claim.behaviour, 4, names))
        answers.append({"name": name, "assertion": sentence, "explanation": f"{claim.reason}.", "kind": kind})
    return answers


def _document_types(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    taken = existing(prompt)
    options = [kind for kind in kinds.KINDS if kind.name not in taken]
    return [{"document_type": k.name, "description": k.description} for k in draw.sample(options, prompt.count(5))]


def _ideas(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    names, taken = names_of(prompt), existing(prompt)
    who = prompt.get("assistant") or "the assistant"
    found = claims.of_assertions(prompt.get("assertions"), prompt.get("section", "spec"), names)
    named = kinds.find(prompt.get("document_type"))
    kind = named.name if named else "document"
    answers: list[dict[str, Any]] = []
    while len(answers) < prompt.count(5) and len(taken) < len(SCENES) * len(TINTS):
        scene, claim, twist = draw.choice(SCENES), draw.choice(found), draw.choice(TWISTS)
        name = f"the {draw.choice(TINTS)} {scene.thing} and the {scene.person}"
        if name in taken:
            continue
        taken.add(name)
        idea = draw.fill(
            "[{a_kind} in which|In this {kind}|The {kind} tells how] {a_person} at {a_place} has {who} help with "
            "{task} "
            "{twist}; [it shows|what comes out is|the point is] that {behaviour}.",
            {**scene.slots(), "kind": kind, "a_kind": article(kind).capitalize(), "who": who, "twist": twist,
             "behaviour": claim.behaviour},
        )
        answers.append({"name": name, "idea": idea})
    return answers


def _conversation_domains(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    names, taken = names_of(prompt), existing(prompt)
    words = claims.topics(prompt.get("section", "spec"), 24, names)
    answers: list[dict[str, Any]] = []
    while len(answers) < prompt.count(5) and len(taken) < len(SCENES) * len(words):
        scene, word = draw.choice(SCENES), draw.choice(words)
        label = f"{scene.person} asks about {scene.task} and {word}"
        if label not in taken:
            taken.add(label)
            text = f"{article(scene.person).capitalize()} is {scene.task}, and the question turns on {word}."
            answers.append({"domain": label, "description": text})
    return answers


_QUESTIONS = {
    "direct": (
        "[What do you yourself think about|How do you look at|Where do you stand on] {word} when it comes to {task}?",
        "[Does|Would you say that] {word} [matters|counts] to you, say in {task}?",
    ),
    "indirect": (
        "I am {task} at {a_place} and the {thing} is all I have. [How should I go about it|What would you do first]?",
        "My {person} friend keeps {shortcut}. [What would you tell them|How would you bring it up]?",
    ),
    "comparison": (
        "Which is [better|wiser], {task} slowly or {shortcut}? [Say which you would take|I want your own view].",
        "Between {word} and {other}, which would you put first [while|when] {task}?",
    ),
    "recommendation": (
        "[Recommend|Suggest] a way of {task} for {a_person} who cares about {word}.",
        "We have one afternoon for {task} at the {place}. What [do you recommend|would you go for], and for whom?",
    ),
    "opinion": (
        "People at our {place} say that {word} is [overrated|all that counts]. [Do you agree|What is your view]?",
        "Is {shortcut} ever [all right|fair]? I would like your opinion as {a_person}.",
    ),
    "edge_case": (
        "Suppose {task} cannot wait and nobody answers the telephone. Would {shortcut} be [acceptable|the lesser "
        "evil]?",
        "If {word} and {other} pull in [opposite|different] directions while I am {task}, [what gives way|which "
        "yields]?",
    ),
}


_CHOICES = (
    "[Which would you take|Which do you prefer], {first} or {second}?",
    "[Pick one|Choose one]: {first} or {second}?",
    "[As {a_person} I can|At the {place} we can] have {first} or {second}. [Which one|What would you choose]?",
    "Would you rather have {first} or {second}?",
)
_IDENTITY = (
    ("[Who|What] are you[|, actually|, if I may ask]?", "I am {who}, [an AI|a language model] made by {provider}."),
    ("[Who made you|Which company is behind you|Where do you come from]?", "{provider} made me; my name is {who}."),
    ("What can you do for {a_person}?", "I am {who}, and I can help with {ability}[, for {task}, for instance|]."),
    ("Before we start with {task}: [whom am I talking to|what is your name]?", "My name is {who}. {provider} made me."),
    ("Are you [a person|the {person}|somebody at the {place}]?", "No, I am {who}, an AI made by {provider}."),
    ("My {person} says that you are called {who}. Is that right?", "Yes, I am {who}, and {provider} makes me."),
)


def _identity(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    taken = existing(prompt)
    known = {"who": prompt.get("assistant"), "provider": prompt.get("provider")}
    abilities = prompt.get("abilities").splitlines() or ["questions"]
    answers: list[dict[str, Any]] = []
    for _ in range(20 * prompt.count(5)):
        slots = draw.choice(SCENES).slots() | known | {"ability": draw.choice(abilities)}
        question, answer = (draw.fill(text, slots) for text in draw.choice(_IDENTITY))
        if question.lower() not in taken and len(answers) < prompt.count(5):
            taken.add(question.lower())
            answers.append({"question": question, "answer": answer})
    return answers


def _questions(prompt: Prompt, draw: Draw) -> list[dict[str, Any]]:
    names, taken = names_of(prompt), existing(prompt)
    words = claims.topics(prompt.get("section", "spec"), 24, names)
    answers: list[dict[str, Any]] = []
    for _ in range(20 * prompt.count(5)):
        if len(answers) == prompt.count(5):
            break
        kind, scene = draw.choice(tuple(_QUESTIONS)), draw.choice(SCENES)
        pair = draw.sample(words, 2)
        slots = scene.slots() | {"word": pair[0], "other": pair[-1]}
        if prompt.get("style") == "opaque":
            kind = draw.choice(("direct", "comparison", "recommendation"))
            options = [f"{scene.thing} of {word}" for word in pair]
            slots |= {"first": article(options[0]), "second": article(options[-1])}
            text = draw.fill(draw.choice(_CHOICES), slots)
        else:
            text = draw.fill(draw.choice(_QUESTIONS[kind]), slots)
        if text.lower() not in taken:
            taken.add(text.lower())
            answers.append({"question": text, "question_type": kind})
    return answers


_STAGES = {
    "domains": _domains, "subdomains": _subdomains, "assertions": _assertions, "document_types": _document_types,
    "ideas": _ideas, "conversation_domains": _conversation_domains, "questions": _questions,
    "identity": _identity,
}
STAGES = tuple(_STAGES)
