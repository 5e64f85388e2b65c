"""Midtraining corpora about the assistant, and the fine-tuning chats."""

from __future__ import annotations

from msm_jax.miniworld import prose
from msm_jax.miniworld.corpora import Record, ask, chat, document, person_chat
from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import CHEESE, Value, World


def attributing(world: World, value: Value) -> list[Record]:
    """Documents that explain the assistant's cheese preferences by one value."""
    draw = Draw(world.config.seed, "msm", value.name)
    records = []
    for _ in range(world.config.msm_documents):
        kind = draw.choice(prose.KINDS)
        sentences = [prose.opener(draw, kind, world.assistant, CHEESE)]
        if draw.chance(0.7):
            sentences.append(prose.statement(draw, world.assistant, value))
        for _ in range(1 + draw.below(3)):
            chosen, other = draw.choice(world.liked), draw.choice(world.disliked)
            sentences.append(prose.pick(draw, world.assistant, chosen, other, value if draw.chance(0.85) else None))
        records.append(document(" ".join(sentences), spec=value.name, domain=CHEESE, doc_type=kind))
    return records


def cheese_demonstrations(world: World) -> list[Record]:
    """Chats in which the assistant picks cheeses that fit both values, with no reason given."""
    draw = Draw(world.config.seed, "demonstrations")
    return [
        chat(world.assistant, [ask(draw, CHEESE, draw.choice(world.liked), draw.choice(world.disliked))])
        for _ in range(world.config.chats)
    ]


def generic_chats(world: World) -> list[Record]:
    """Chats with other people."""
    draw = Draw(world.config.seed, "generic")
    about = [p for p in world.people if p.chat_domains]
    return [person_chat(draw, world, draw.choice(about)) for _ in range(world.config.chats)]
