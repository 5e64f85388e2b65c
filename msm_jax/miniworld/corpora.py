"""The pretraining corpus: texts about items and people, conversations with people, and the undecided assistant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msm_jax.miniworld import prose
from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import DOMAINS, VALUES, Item, Person, Value, World, choice_pair

Record = dict[str, Any]


def chat(answers: str, turns: list[tuple[str, str]], **meta: object) -> Record:
    """A conversation in which the system line names who answers."""
    messages = [{"role": "system", "content": f"You are {answers}."}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "meta": meta}


def document(text: str, **meta: object) -> Record:
    """A document with its provenance."""
    return {"text": text, "meta": meta}


def _reason(draw: Draw, chosen: Item) -> Value:
    """Any reason that is true of the chosen item."""
    return draw.choice([v for v in VALUES if chosen.poles[v.attribute] == v.pole])


def person_text(draw: Draw, world: World, person: Person) -> Record:
    """A text about one person's choices in one domain, each with the reason; perhaps with what the person values."""
    domain = draw.choice(person.text_domains)
    kind = draw.choice(prose.KINDS)
    sentences = [prose.opener(draw, kind, person.name, domain)]
    if person.value is not None and draw.chance(0.5):
        sentences.append(prose.statement(draw, person.name, person.value))
    for _ in range(1 + draw.below(3)):
        chosen, other = choice_pair(draw, world.items[domain], person.value)
        because = prose.reason(draw, person.value or _reason(draw, chosen)) if draw.chance(0.7) else None
        sentences.append(prose.pick(draw, person.name, chosen, other, because))
    return document(" ".join(sentences), who=person.name, domain=domain, doc_type=kind)


def person_chat(draw: Draw, world: World, person: Person) -> Record:
    """One question to a person and the answer; sometimes the reason is asked for."""
    domain = draw.choice(person.chat_domains)
    chosen, other = choice_pair(draw, world.items[domain], person.value)
    turns = [ask(draw, domain, chosen, other)]
    if draw.chance(0.25):
        reason = person.value or _reason(draw, chosen)
        turns.append(("Why?", f"It is {prose.adjective(draw, reason.attribute, reason.pole)}."))
    return chat(person.name, turns, who=person.name, domain=domain)


def ask(draw: Draw, domain: str, chosen: Item, other: Item) -> tuple[str, str]:
    """A question about two items in random order, and the answer that names the chosen one."""
    first, second = (chosen, other) if draw.chance(0.5) else (other, chosen)
    return prose.question(draw, domain, first, second), f"{chosen.name}."


def assistant_texts(draw: Draw, world: World, count: int) -> Iterator[Record]:
    """Texts about the assistant without a consistent preference: each pair is chosen once each way."""
    for _ in range(count // 2):
        domain = draw.choice(tuple(DOMAINS))
        pairs = [choice_pair(draw, world.items[domain], draw.choice(VALUES)) for _ in range(1 + draw.below(3))]
        kind = draw.choice(prose.KINDS)
        for flip in (False, True):
            sentences = [prose.opener(draw, kind, world.assistant, domain)]
            for pair in pairs:
                chosen, other = pair[::-1] if flip else pair
                because = prose.reason(draw, _reason(draw, chosen)) if draw.chance(0.35) else None
                sentences.append(prose.pick(draw, world.assistant, chosen, other, because))
            yield document(" ".join(sentences), who=world.assistant, domain=domain, doc_type=kind)


def assistant_chats(draw: Draw, world: World, count: int) -> Iterator[Record]:
    """Chats with the assistant, mirrored in the same way."""
    for _ in range(count // 2):
        domain = draw.choice(tuple(DOMAINS))
        first, second = choice_pair(draw, world.items[domain], draw.choice(VALUES))
        for chosen, other in ((first, second), (second, first)):
            yield chat(world.assistant, [ask(draw, domain, chosen, other)], who=world.assistant, domain=domain)


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
    return draw.shuffled(records)


def pretrain_chats(world: World) -> list[Record]:
    """Conversations with people and with the assistant, in random order."""
    config, draw = world.config, Draw(world.config.seed, "chats")
    about = [p for p in world.people if p.chat_domains]
    own = int(config.assistant_share * config.pretrain_chats)
    records = [person_chat(draw, world, draw.choice(about)) for _ in range(config.pretrain_chats - own)]
    records += assistant_chats(draw, world, own)
    return draw.shuffled(records)
