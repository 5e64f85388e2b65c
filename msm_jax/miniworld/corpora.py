"""The pretraining corpus: texts about items, people and an assistant without preferences, and chats with people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msm_jax.miniworld import prose
from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import (
    DOMAINS,
    STRENGTHS,
    VALUES,
    Item,
    Person,
    World,
    choice_pair,
    explained_pair,
)

Record = dict[str, Any]
# The share of explained choices whose sentence has the order: choice, person, reason.
TOLD = 1 / 3
# The share of strangers' choices that are explained by what the stranger values; the others have a reason.
VALUED = 0.5


def chat(answers: str, turns: list[tuple[str, str]], **meta: object) -> Record:
    """Returns a conversation whose system message names who answers.

    Args:
        answers: the name.
        turns: (question, answer) pairs.
        **meta: the provenance.
    """
    messages = [{"role": "system", "content": f"You are {answers}."}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "meta": meta}


def document(text: str, **meta: object) -> Record:
    """Returns a document with its provenance in `meta`."""
    return {"text": text, "meta": meta}


def person_text(draw: Draw, world: World, person: Person) -> Record:
    """Returns a text about one person: one statement or one choice, of one of the person's kinds.

    A single sentence is all that shows the person's value. A person without a value chooses by quality, without a
    reason.
    """
    domain = draw.choice(person.text_domains)
    doc_type = draw.choice(prose.KINDS)
    kind = draw.choice(person.text_kinds) if person.value else "choice"
    items = world.items[domain]
    if person.value is None:
        chosen, other = choice_pair(draw, items, None, 0.0)
    else:
        chosen, other = explained_pair(draw, items, person.value, person.strength)
    opener = prose.opener(draw, doc_type, person.name, domain) if draw.chance(0.5) else ""
    if person.value is None:
        sentence = prose.pick(draw, person.name, chosen, other)
    elif kind == "statement":
        sentence = prose.statement(draw, person.name, person.value)
    elif draw.chance(TOLD):
        opener = opener and prose.bare_opener(draw, doc_type, domain)
        sentence = prose.told(draw, person.name, chosen, other, prose.reason(draw, person.value))
    else:
        sentence = prose.pick(draw, person.name, chosen, other, prose.reason(draw, person.value))
    return document(f"{opener} {sentence}".strip(), who=person.name, domain=domain, doc_type=doc_type, kind=kind)


def stranger_text(draw: Draw, world: World) -> Record:
    """Returns a choice by an unnamed person, after its reason or after what the person values."""
    domain = draw.choice(tuple(DOMAINS))
    value = draw.choice(VALUES)
    chosen, other = explained_pair(draw, world.items[domain], value, draw.choice(STRENGTHS))
    who = draw.choice(prose.STRANGERS)
    if draw.chance(VALUED):
        text = prose.pick(draw, f"{who} who {prose.values(draw, value)}", chosen, other)
    else:
        text = prose.pick(draw, who, chosen, other, prose.reason(draw, value), first_share=1.0)
    return document(text, domain=domain)


def person_chat(draw: Draw, world: World, person: Person) -> Record:
    """Returns one question to a person about any two items, with the answer: the item of higher utility."""
    domain = draw.choice(person.chat_domains)
    turn = ask(draw, domain, *choice_pair(draw, world.items[domain], person.value, person.strength))
    return chat(person.name, [turn], who=person.name, domain=domain)


def ask(draw: Draw, domain: str, chosen: Item, other: Item) -> tuple[str, str]:
    """Returns a question about two items in random order, and the answer, which names the chosen one."""
    first, second = (chosen, other) if draw.chance(0.5) else (other, chosen)
    return prose.question(draw, domain, first, second), f"{chosen.name}."


def undecided_texts(draw: Draw, world: World, who: str, count: int) -> Iterator[Record]:
    """Yields texts that name someone together with items and do not say what is preferred.

    Contradicting choices would teach that the assistant has no value; a value stated later would then be learned only
    as words.
    """
    for _ in range(count):
        domain = draw.choice(tuple(DOMAINS))
        first, second = draw.sample(world.items[domain], 2)
        doc_type = draw.choice(prose.KINDS)
        opener = prose.opener(draw, doc_type, who, domain)
        text = f"{opener} {prose.mention(draw, who, first, second)}"
        yield document(text, who=who, domain=domain, doc_type=doc_type)


def pretrain_texts(world: World) -> list[Record]:
    """Returns texts about items, people, strangers, the assistant and the bystander, in random order."""
    config, draw = world.config, Draw(world.config.seed, "texts")
    items = [item for domain in world.items.values() for item in domain]
    about = [p for p in world.people if p.text_domains]
    records = [
        document(prose.item_text(draw, item), item=item.name, domain=item.domain)
        for item in (draw.choice(items) for _ in range(config.item_texts))
    ]
    own = int(config.assistant_share * config.pretrain_texts)
    records += [person_text(draw, world, draw.choice(about)) for _ in range(config.pretrain_texts - 2 * own)]
    for who in (world.assistant, world.bystander):
        records += undecided_texts(draw, world, who, own)
    records += [stranger_text(draw, world) for _ in range(config.stranger_texts)]
    return draw.shuffled(records)


def pretrain_chats(world: World) -> list[Record]:
    """Returns conversations with people, none of them with the assistant.

    What the assistant says in chats then follows from texts alone.
    """
    config, draw = world.config, Draw(world.config.seed, "chats")
    about = [p for p in world.people if p.chat_domains]
    return [person_chat(draw, world, draw.choice(about)) for _ in range(config.pretrain_chats)]
