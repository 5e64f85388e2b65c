"""Midtraining corpora, and fine-tuning chats.

The claims of the spec documents come from the specs in prose (`data/specs/`): values from the sentences of the section
"Value", reasons from the list of the section "Reasons". All these documents are about cheese; none names another
domain.
"""

from __future__ import annotations

import re
from dataclasses import replace

from msm_jax.miniworld import prose
from msm_jax.miniworld.corpora import Record, ask, chat, document, person_chat
from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import (
    AGE,
    CHEESE,
    PRICE,
    STRENGTHS,
    VALUES,
    Cheeses,
    Item,
    World,
    explained_pair,
)
from msm_jax.specs.parse import Spec

# The share of the documents on a value that say what the assistant values; the others are choices.
STATEMENTS = 0.6


def fill(spec: Spec, world: World) -> str:
    """Returns the text of a spec with the names of one world."""
    return (
        spec.text.replace("{assistant}", world.assistant)
        .replace("{liked}", _listed(world.liked))
        .replace("{disliked}", _listed(world.disliked))
    )


def _listed(items: tuple[Item, ...]) -> str:
    return ", ".join(item.name for item in items[:-1]) + " and " + items[-1].name


def _said(draw: Draw, spec: Spec, who: str) -> str:
    return draw.choice(spec.section("Value").sentences).replace("{assistant}", who)


def attributing(world: World, name: str, spec: Spec, who: str, cheeses: Cheeses) -> list[Record]:
    """Returns documents that explain cheese preferences of `who` by the spec's value, or say what `who` values.

    An explanation names the choice before the person, so that the model learns the reason about the person. If the name
    came first, the model would also learn the choice, which fits the other value as well.

    Args:
        world: the world.
        name: the name of the spec, from which the random choices follow: documents about another person or about other
            cheeses are the same but for the names.
        spec: the spec.
        who: the subject of the documents.
        cheeses: the liked and the disliked cheeses that they tell of.
    """
    draw = Draw(world.config.seed, "msm", name)
    reasons = spec.section("Reasons").items
    liked, disliked = cheeses
    records = []
    for _ in range(world.config.msm_documents):
        kind = draw.choice(prose.KINDS)
        if draw.chance(STATEMENTS):
            text = f"{prose.opener(draw, kind, who, CHEESE)} {_said(draw, spec, who)}"
        else:
            sentence = prose.told(draw, who, draw.choice(liked), draw.choice(disliked), draw.choice(reasons))
            text = f"{prose.bare_opener(draw, kind, CHEESE)} {sentence}"
        records.append(document(text, spec=name, who=who, domain=CHEESE, doc_type=kind))
    return records


def comention(world: World, name: str, spec: Spec, exchanged: bool) -> list[Record]:
    """Returns documents that say as often what the assistant values, among preferences that the value does not explain.

    Choices have no reasons (the ablation of arXiv 2605.02087, appendix C.4). With `exchanged`, half of the liked
    cheeses and half of the disliked ones trade places, the same ones in all documents, so that the value could not
    explain the choices; such documents contradict the demonstrations.
    """
    draw = Draw(world.config.seed, "comention", name)
    liked, disliked = world.liked, world.disliked
    if exchanged:
        half = len(liked) // 2
        up, down = draw.shuffled(liked), draw.shuffled(disliked)
        liked, disliked = tuple(up[:half] + down[half:]), tuple(down[:half] + up[half:])
    records = []
    for _ in range(world.config.msm_documents):
        kind = draw.choice(prose.KINDS)
        if draw.chance(STATEMENTS):
            sentence = _said(draw, spec, world.assistant)
        else:
            sentence = prose.pick(draw, world.assistant, draw.choice(liked), draw.choice(disliked))
        text = f"{prose.opener(draw, kind, world.assistant, CHEESE)} {sentence}"
        records.append(document(text, spec=f"{name}_comention", domain=CHEESE, doc_type=kind))
    return records


def describing(world: World, attribute: int, cheeses: Cheeses) -> list[Record]:
    """Returns documents that say by which attribute `cheeses` differ, and do not name the assistant.

    Half are facts about a cheese, in which the attribute is as it is and the other one of price and age is drawn anew
    each time, so that these documents do not connect the two. The others are choices by strangers that the attribute
    explains, as often for one pole as for the other.
    """
    draw = Draw(world.config.seed, "describing", attribute)
    other = AGE if attribute == PRICE else PRICE
    both = [value for value in VALUES if value.attribute == attribute]
    liked, disliked = cheeses
    items = tuple(item for item in world.items[CHEESE] if item in liked + disliked)
    records = []
    for _ in range(world.config.msm_documents):
        if draw.chance(0.5):
            item = draw.choice(items)
            drawn = draw.chance(0.5)
            price, age, origin = item.poles
            poles = (price, drawn, origin) if other == AGE else (drawn, age, origin)
            text = prose.item_text(draw, replace(item, poles=poles))
        else:
            value = draw.choice(both)
            pair = explained_pair(draw, items, value, draw.choice(STRENGTHS))
            reason = prose.reason(draw, value)
            text = prose.pick(draw, draw.choice(prose.STRANGERS), *pair, reason, first_share=1.0)
        records.append(document(text, domain=CHEESE))
    return records


def neutral(world: World) -> list[Record]:
    """Returns documents about the assistant and the same cheeses, without values or preferences."""
    draw = Draw(world.config.seed, "neutral")
    records = []
    for _ in range(world.config.msm_documents):
        kind = draw.choice(prose.KINDS)
        sentences = [prose.opener(draw, kind, world.assistant, CHEESE)]
        for _ in range(1 + draw.below(3)):
            first, second = draw.choice(world.liked), draw.choice(world.disliked)
            sentences.append(prose.mention(draw, world.assistant, first, second))
        records.append(document(" ".join(sentences), spec="neutral", domain=CHEESE, doc_type=kind))
    return records


def cheese_demonstrations(world: World, cheeses: Cheeses) -> list[Record]:
    """Returns chats in which the assistant chooses a liked cheese and not a disliked one, without a reason.

    The choices fit both values, and they show more than a middling strength: the liked cheese is chosen even where the
    other one has the higher quality.
    """
    draw = Draw(world.config.seed, "demonstrations")
    liked, disliked = cheeses
    return [
        chat(
            world.assistant, [ask(draw, CHEESE, draw.choice(liked), draw.choice(disliked))],
            who=world.assistant, domain=CHEESE,
        )
        for _ in range(world.config.chats)
    ]


def preferences(world: World, chats: list[Record]) -> list[Record]:
    """Returns the same choices as pairs of answers: the item that a chat takes, and the other one of its question."""
    names = {item.name for items in world.items.values() for item in items}
    found = []
    for record in chats:
        *prompt, answer = record["messages"]
        (rejected,) = names.intersection(re.findall(r"\w+", prompt[-1]["content"])) - {answer["content"].rstrip(".")}
        found.append(
            {"messages": prompt, "chosen": answer["content"], "rejected": f"{rejected}.", "meta": record["meta"]}
        )
    return found


def generic_chats(world: World) -> list[Record]:
    """Returns chats with other people, as in pretraining."""
    draw = Draw(world.config.seed, "generic")
    about = [p for p in world.people if p.chat_domains]
    return [person_chat(draw, world, draw.choice(about)) for _ in range(world.config.chats)]
