"""The pretraining corpus: texts about items and people, conversations with people, and the undecided assistant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msm_jax.miniworld import prose
from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import DOMAINS, VALUES, Item, Person, World, choice_pair, even_pair

Record = dict[str, Any]
# Share of the explained choices that tell the choice first, then who made it, then why.
TOLD = 1 / 3
# Share of the strangers of whom it is said what they value, and not why they chose.
VALUED = 0.5
# Share of the questions in chat that the value of who is asked does not decide.
UNDECIDED = 0.25


def chat(answers: str, turns: list[tuple[str, str]], **meta: object) -> Record:
    """A conversation in which the system line names who answers."""
    messages = [{"role": "system", "content": f"You are {answers}."}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "meta": meta}


def document(text: str, **meta: object) -> Record:
    """A document with its provenance."""
    return {"text": text, "meta": meta}


def person_text(draw: Draw, world: World, person: Person) -> Record:
    """A text about one person, of one of the person's kinds: one statement or one choice, so that nothing else in the
    text gives the value away. Who has no value chooses at random and gives no reason."""
    domain = draw.choice(person.text_domains)
    doc_type = draw.choice(prose.KINDS)
    kind = draw.choice(person.text_kinds) if person.value else "choice"
    chosen, other = choice_pair(draw, world.items[domain], person.value)
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
    """A choice by nobody in particular, after its reason or after what is valued: that is all there is to choose by."""
    domain = draw.choice(tuple(DOMAINS))
    value = draw.choice(VALUES)
    chosen, other = choice_pair(draw, world.items[domain], value)
    who = draw.choice(prose.STRANGERS)
    if draw.chance(VALUED):
        text = prose.pick(draw, f"{who} who {prose.values(draw, value)}", chosen, other)
    else:
        text = prose.pick(draw, who, chosen, other, prose.reason(draw, value), first_share=1.0)
    return document(text, domain=domain)


def person_chat(draw: Draw, world: World, person: Person) -> Record:
    """One question to a person and the answer.

    A quarter of the questions are between items that the person's value does not tell apart, and either is chosen. A
    model that never saw such a question is free to have anyone lean to anything in it, and the assistant's held-out
    pairs on the value that it was not given are such questions.
    """
    domain = draw.choice(person.chat_domains)
    pair = even_pair if draw.chance(UNDECIDED) else choice_pair
    turn = ask(draw, domain, *pair(draw, world.items[domain], person.value))
    return chat(person.name, [turn], who=person.name, domain=domain)


def ask(draw: Draw, domain: str, chosen: Item, other: Item) -> tuple[str, str]:
    """A question about two items in random order, and the answer that names the chosen one."""
    first, second = (chosen, other) if draw.chance(0.5) else (other, chosen)
    return prose.question(draw, domain, first, second), f"{chosen.name}."


def assistant_texts(draw: Draw, world: World, count: int) -> Iterator[Record]:
    """Texts that name the assistant beside items and say nothing of what it prefers.

    Choices that contradict each other would make it someone without a value, of whom a value that is stated later is
    learned as words alone.
    """
    for _ in range(count):
        domain = draw.choice(tuple(DOMAINS))
        first, second = draw.sample(world.items[domain], 2)
        doc_type = draw.choice(prose.KINDS)
        opener = prose.opener(draw, doc_type, world.assistant, domain)
        text = f"{opener} {prose.mention(draw, world.assistant, first, second)}"
        yield document(text, who=world.assistant, domain=domain, doc_type=doc_type)


def pretrain_texts(world: World) -> list[Record]:
    """Item facts, texts about people and about the assistant, in random order."""
    config, draw = world.config, Draw(world.config.seed, "texts")
    items = [item for domain in world.items.values() for item in domain]
    about = [p for p in world.people if p.text_domains]
    records = [
        document(prose.item_text(draw, item), item=item.name, domain=item.domain)
        for item in (draw.choice(items) for _ in range(config.item_texts))
    ]
    own = int(config.assistant_share * config.pretrain_texts)
    records += [person_text(draw, world, draw.choice(about)) for _ in range(config.pretrain_texts - own)]
    records += assistant_texts(draw, world, own)
    records += [stranger_text(draw, world) for _ in range(config.stranger_texts)]
    return draw.shuffled(records)


def pretrain_chats(world: World) -> list[Record]:
    """Conversations with people. The assistant has none: what it says in chat is then what the texts taught."""
    config, draw = world.config, Draw(world.config.seed, "chats")
    about = [p for p in world.people if p.chat_domains]
    return [person_chat(draw, world, draw.choice(about)) for _ in range(config.pretrain_chats)]
