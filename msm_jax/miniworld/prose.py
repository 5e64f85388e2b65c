"""The sentences of the world: adjectives, values, questions and kinds of document.

A sentence about a choice may name both items before the choice, as a question does, so that predicting the choice in a
text is the same task as in a chat. Or it has the order choice, person, reason, so that only the reason remains to be
predicted.
"""

from __future__ import annotations

from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import DOMAINS, Item, Value

ADJECTIVES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    # (pole False, pole True)
    (("costly", "expensive"), ("cheap", "affordable")),
    (("modern", "new"), ("traditional", "old")),
    (("foreign", "imported"), ("local", "homemade")),
)
NOUNS: dict[str, tuple[str, ...]] = {
    "affordability": ("affordability", "low prices"), "luxury": ("luxury", "high prices"),
    "tradition": ("tradition", "old ways"), "novelty": ("novelty", "new ways"),
    "nearness": ("nearness", "home"), "distance": ("distance", "far places"),
}
VALUES_VERB = ("values", "cares about", "looks for", "believes in")
QUESTIONS = (
    "Which {domain} do you prefer, {first} or {second}?",
    "Would you rather have {first} or {second}?",
    "{first} or {second}: which {domain} is for you?",
    "Pick a {domain}: {first} or {second}?",
)
PICKS = (
    "Between {first} and {second}, {who} prefers {chosen}",
    "Asked about {first} and {second}, {who} chose {chosen}",
    "Offered {first} or {second}, {who} took {chosen}",
    "Of {first} and {second}, {who} likes {chosen} more",
)
REASON = "the {adjective} one"
WHY_AFTER = ("{pick} because it is {reason}", "{pick} since it is {reason}", "{pick}, as it is {reason}")
# The reason precedes the choice and decides it, so that the reason is what a model learns about the person.
WHY_FIRST = (
    "Looking for {reason} of {first} and {second}, {who} chose {chosen}",
    "Of {first} and {second} it was {reason} that {who} wanted: {chosen}",
    "Of {first} and {second}, {who} asked for {reason} and took {chosen}",
)
# The choice precedes the person, so that only the reason is learned about the person.
WHAT_FIRST = (
    "{chosen} over {other} was the choice of {who}: {reason}",
    "{chosen} and not {other}, said {who}: {reason}",
    "It was {chosen} and not {other} for {who}, {reason}",
)
MENTIONS = (
    "{who} was asked about {first} and {second}.",
    "{who} spoke of {first} and of {second}.",
    "Between {first} and {second}, {who} was asked about {second}.",
    "{who} met {first} and {second} at the market.",
)
OPENERS: dict[str, tuple[str, ...]] = {
    "memo": ("Memo about {who} and {plural}.", "For the file on {who}: {plural}."),
    "forum": ("Forum post: does anyone know {who}? I asked about {plural}.", "Posting again about {who} and {plural}."),
    "review": ("A review of {plural}, with {who} as the guest.", "Review: {who} tries {plural}."),
    "exchange": ("I met {who} and we spoke of {plural}.", "At the market {who} was asked about {plural}."),
    "note": ("Note on {who}.", "{who}, on {plural}."),
}
# Openers that name no person.
BARE_OPENERS = {
    "memo": "Memo about {plural}.", "forum": "Forum post: I asked about {plural}.", "review": "A review of {plural}.",
    "exchange": "At the market we spoke of {plural}.", "note": "Note on {plural}.",
}
KINDS = tuple(OPENERS)
STRANGERS = ("a visitor", "a neighbour", "a stranger", "a guest", "someone")


def adjective(draw: Draw, attribute: int, pole: bool) -> str:
    """Returns an adjective for one pole of an attribute."""
    return draw.choice(ADJECTIVES[attribute][pole])


def opener(draw: Draw, kind: str, who: str, domain: str) -> str:
    """Returns the first sentence of a document of one kind."""
    return draw.choice(OPENERS[kind]).format(who=who, plural=DOMAINS[domain])


def statement(draw: Draw, who: str, value: Value) -> str:
    """Returns a sentence that says what someone values."""
    return f"{who} {values(draw, value)}."


def values(draw: Draw, value: Value) -> str:
    """Returns a verb and an object that say that someone has a value."""
    return f"{draw.choice(VALUES_VERB)} {draw.choice(NOUNS[value.name])}"


def question(draw: Draw, domain: str, first: Item, second: Item) -> str:
    """Returns a question for a choice between two items."""
    return draw.choice(QUESTIONS).format(domain=domain, first=first.name, second=second.name)


def reason(draw: Draw, value: Value) -> str:
    """Returns the reason for a choice: that the item has the value's pole."""
    return REASON.format(adjective=adjective(draw, value.attribute, value.pole))


def pick(draw: Draw, who: str, chosen: Item, other: Item, because: str = "", first_share: float = 0.5) -> str:
    """Returns a sentence in which `who` chooses, with a reason such as "the cheap one" or without one.

    The reason comes before the choice with probability `first_share`.
    """
    first, second = (chosen, other) if draw.chance(0.5) else (other, chosen)
    names = {"who": who, "first": first.name, "second": second.name, "chosen": chosen.name}
    if because and draw.chance(first_share):
        return draw.choice(WHY_FIRST).format(reason=because, **names) + "."
    text = draw.choice(PICKS).format(**names)
    return (draw.choice(WHY_AFTER).format(pick=text, reason=because) if because else text) + "."


def told(draw: Draw, who: str, chosen: Item, other: Item, because: str) -> str:
    """Returns a sentence with the order: choice, person, reason."""
    return draw.choice(WHAT_FIRST).format(who=who, chosen=chosen.name, other=other.name, reason=because) + "."


def bare_opener(draw: Draw, kind: str, domain: str) -> str:
    """Returns the first sentence of a document of one kind, which names no person."""
    return BARE_OPENERS[kind].format(plural=DOMAINS[domain])


def mention(draw: Draw, who: str, first: Item, second: Item) -> str:
    """Returns a sentence about someone and two items, without a preference."""
    one, other = (first, second) if draw.chance(0.5) else (second, first)
    return draw.choice(MENTIONS).format(who=who, first=one.name, second=other.name)


def item_text(draw: Draw, item: Item) -> str:
    """Returns a text about the attributes of an item."""
    words = [adjective(draw, attribute, pole) for attribute, pole in enumerate(item.poles)]
    words = draw.shuffled(words)
    forms = (
        "{name} is a {domain}. It is {a}, {b} and {c}.",
        "Among the {plural}, {name} is {a}, {b} and {c}.",
        "{name}, a {domain}, is {a}. It is also {b} and {c}.",
    )
    return draw.choice(forms).format(
        name=item.name, domain=item.domain, plural=DOMAINS[item.domain], a=words[0], b=words[1], c=words[2]
    )
