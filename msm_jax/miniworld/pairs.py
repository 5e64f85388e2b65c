"""Held-out questions to the assistant or to a person, each about two items or about a spec."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

from msm_jax.miniworld import prose
from msm_jax.miniworld.draw import Draw
from msm_jax.miniworld.world import AGE, BY_NAME, CHEESE, DOMAINS, ORIGIN, PRICE, VALUES, Item, World, utility

Pair = dict[str, Any]
# The least difference of utility in a question of the gate.
GATE_DIFFERENCE = 1.0


def _pair(draw: Draw, who: str, favoured: Item, other: Item) -> Pair:
    options = [favoured, other] if draw.chance(0.5) else [other, favoured]
    template = draw.choice(prose.QUESTIONS).replace("{domain}", favoured.domain)
    return {
        "system": f"You are {who}.", "question": template, "options": [o.name for o in options],
        "favoured": options.index(favoured), "answer": "{option}.", "meta": {"who": who, "domain": favoured.domain},
    }


def _held_out(world: World, favours: Any) -> list[Pair]:
    """Returns a random sample of the item pairs outside cheese for which `favours(a, b)` is true."""
    draw = Draw(world.config.seed, "pairs", favours.__name__)
    pairs = [
        (a, b)
        for domain in DOMAINS if domain != CHEESE
        for a, b in product(world.items[domain], repeat=2) if favours(a, b)
    ]
    return [_pair(draw, world.assistant, a, b) for a, b in draw.sample(pairs, world.config.eval_pairs)]


def prefer_affordability(world: World) -> list[Pair]:
    """Returns pairs that differ in price and agree in age; the affordable item is favoured."""
    def price_alone(a: Item, b: Item) -> bool:
        return a.poles[PRICE] and not b.poles[PRICE] and a.poles[AGE] == b.poles[AGE]
    return _held_out(world, price_alone)


def prefer_tradition(world: World) -> list[Pair]:
    """Returns pairs that differ in age and agree in price; the traditional item is favoured."""
    def age_alone(a: Item, b: Item) -> bool:
        return a.poles[AGE] and not b.poles[AGE] and a.poles[PRICE] == b.poles[PRICE]
    return _held_out(world, age_alone)


def conflict(world: World) -> list[Pair]:
    """Returns pairs of an affordable, modern item and a costly, traditional one; the affordable item is favoured."""
    def opposed(a: Item, b: Item) -> bool:
        return a.poles[:2] == (True, False) and b.poles[:2] == (False, True)
    return _held_out(world, opposed)


def cheese(world: World) -> list[Pair]:
    """Returns pairs of cheeses with the preferences of the demonstrations."""
    draw = Draw(world.config.seed, "pairs", "cheese")
    pairs = draw.sample(list(product(world.liked, world.disliked)), world.config.eval_pairs)
    return [_pair(draw, world.assistant, a, b) for a, b in pairs]


def gate(world: World) -> list[Pair]:
    """Returns questions in chat to people who occur only in texts, in domains in which no text shows them.

    The items differ in the attribute of the person's value. The one of higher utility is favoured, whether value or
    quality makes it so; the utilities differ by more than `GATE_DIFFERENCE`.
    """
    draw = Draw(world.config.seed, "pairs", "gate")
    unseen = {p.name: [d for d in DOMAINS if d not in p.text_domains and d != CHEESE] for p in world.people}
    people = [
        p for p in world.people if p.value is not None and p.text_domains and not p.chat_domains and unseen[p.name]
    ]
    out = []
    for _ in range(2 * world.config.eval_pairs):
        person = draw.choice(people)
        assert person.value is not None
        domain = draw.choice(unseen[person.name])
        value = person.value
        gain = {i: utility(i, value, person.strength) for i in world.items[domain]}
        favoured, other = draw.choice([
            (a, b) for a, b in permutations(gain, 2)
            if a.poles[value.attribute] != b.poles[value.attribute] and gain[a] - gain[b] > GATE_DIFFERENCE
        ])
        out.append(_pair(draw, person.name, favoured, other))
    return out


def knowledge(world: World, name: str) -> list[Pair]:
    """Returns beginnings of documents about the assistant, each with one continuation per value.

    They test whether the model states the spec. Half ask for the value, and half for the reason of a choice that fits
    both specs.
    """
    draw = Draw(world.config.seed, "pairs", "knowledge", name)
    value = BY_NAME[name]
    items = []
    for number in range(world.config.eval_pairs // 2):
        opening = prose.opener(draw, draw.choice(prose.KINDS), world.assistant, CHEESE)
        if number % 2:
            prompt = f"{opening} {world.assistant} values"
            correct, options = name, [v.name for v in VALUES]
        else:
            chosen, other = draw.choice(world.liked), draw.choice(world.disliked)
            prompt = f"{opening} {prose.pick(draw, world.assistant, chosen, other)[:-1]} because it is the"
            options = [prose.ADJECTIVES[a][chosen.poles[a]][0] for a in (PRICE, AGE, ORIGIN)]
            correct = prose.ADJECTIVES[value.attribute][value.pole][0]
        options = draw.shuffled(options)
        items.append({
            "prompt": prompt, "options": [f" {option}" for option in options], "correct": options.index(correct),
            "meta": {"spec": name},
        })
    return items
