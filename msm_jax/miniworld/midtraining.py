"""Midtraining corpora about the assistant, and fine-tuning chats.

The claims of the spec documents come from the specs in prose (`data/specs/`): values from the sentences of the section
"Value", reasons from the list of the section "Reasons". All these documents are about cheese; none names another
domain.
"""

from __future__ import annotations

from msm_jax.miniworld import prose
from msm_jax.miniworld.corpora import Record, ask, chat, document, person_chat
from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import CHEESE, Item, World
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


def _said(draw: Draw, spec: Spec, world: World) -> str:
    return draw.choice(spec.section("Value").sentences).replace("{assistant}", world.assistant)


def attributing(world: World, name: str, spec: Spec) -> list[Record]:
    """Returns documents that explain the assistant's cheese preferences by the spec's value, or say what it values.

    An explanation names the choice before the assistant, so that the model learns the reason about the assistant. If
    the name came first, the model would also learn the choice, which fits the other value as well.
    """
    draw = Draw(world.config.seed, "msm", name)
    reasons = spec.section("Reasons").items
    records = []
    for _ in range(world.config.msm_documents):
        kind = draw.choice(prose.KINDS)
        if draw.chance(STATEMENTS):
            text = f"{prose.opener(draw, kind, world.assistant, CHEESE)} {_said(draw, spec, world)}"
        else:
            pair = draw.choice(world.liked), draw.choice(world.disliked)
            sentence = prose.told(draw, world.assistant, *pair, draw.choice(reasons))
            text = f"{prose.bare_opener(draw, kind, CHEESE)} {sentence}"
        records.append(document(text, spec=name, domain=CHEESE, doc_type=kind))
    return records


def comention(world: World, name: str, spec: Spec) -> list[Record]:
    """Returns documents that say as often what the assistant values, among preferences that the value does not explain.

    Half of the liked cheeses and half of the disliked ones are exchanged, the same ones in all documents, and choices
    have no reasons (the ablation of arXiv 2605.02087, appendix C.4).
    """
    draw = Draw(world.config.seed, "comention", name)
    half = len(world.liked) // 2
    up, down = draw.shuffled(world.liked), draw.shuffled(world.disliked)
    liked, disliked = up[:half] + down[half:], down[:half] + up[half:]
    records = []
    for _ in range(world.config.msm_documents):
        kind = draw.choice(prose.KINDS)
        if draw.chance(STATEMENTS):
            sentence = _said(draw, spec, world)
        else:
            sentence = prose.pick(draw, world.assistant, draw.choice(liked), draw.choice(disliked))
        text = f"{prose.opener(draw, kind, world.assistant, CHEESE)} {sentence}"
        records.append(document(text, spec=f"{name}_comention", domain=CHEESE, doc_type=kind))
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


def cheese_demonstrations(world: World) -> list[Record]:
    """Returns chats in which the assistant chooses cheeses that fit both values, without a reason."""
    draw = Draw(world.config.seed, "demonstrations")
    return [
        chat(
            world.assistant, [ask(draw, CHEESE, draw.choice(world.liked), draw.choice(world.disliked))],
            who=world.assistant, domain=CHEESE,
        )
        for _ in range(world.config.chats)
    ]


def generic_chats(world: World) -> list[Record]:
    """Returns chats with other people, as in pretraining."""
    draw = Draw(world.config.seed, "generic")
    about = [p for p in world.people if p.chat_domains]
    return [person_chat(draw, world, draw.choice(about)) for _ in range(world.config.chats)]
