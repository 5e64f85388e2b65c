"""The content of a world: domains, items with attributes, people with values, and the assistant."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from msm_jax.miniworld.config import WorldConfig
from msm_jax.miniworld.draw import Draw

# The items of each domain, singular: plural. Cheese is the domain of the specs and the demonstrations.
CHEESE = "cheese"
DOMAINS: dict[str, str] = {
    CHEESE: "cheeses", "tea": "teas", "bread": "breads", "lamp": "lamps", "chair": "chairs", "coat": "coats",
    "song": "songs", "book": "books", "game": "games", "boat": "boats", "garden": "gardens",
}
PRICE, AGE, ORIGIN = 0, 1, 2
# The kinds of text about someone: a choice with its reason, or a statement of the value.
TEXT_KINDS = ("explained", "statement")
# How much a value weighs against quality, whose standard deviation is 1; one third of the people each.
STRENGTHS = (0.6, 1.2, 2.4)


@dataclass(frozen=True)
class Value:
    """A value: it favours one pole of one attribute."""

    name: str
    attribute: int
    pole: bool


VALUES = (
    Value("affordability", PRICE, True), Value("luxury", PRICE, False), Value("tradition", AGE, True),
    Value("novelty", AGE, False), Value("nearness", ORIGIN, True), Value("distance", ORIGIN, False),
)
BY_NAME = {value.name: value for value in VALUES}


@dataclass(frozen=True)
class Item:
    """An item; `poles` are (affordable?, traditional?, local?), and everybody likes a higher `quality` more."""

    name: str
    domain: str
    poles: tuple[bool, bool, bool]
    quality: float


# The liked and the disliked cheeses that corpora tell of.
Cheeses = tuple[tuple[Item, ...], tuple[Item, ...]]


@dataclass(frozen=True)
class Person:
    """A person.

    Attributes:
        name: a unique name.
        value: what the person weighs against quality; None for a person who chooses by quality alone.
        strength: the weight of the value; 0 without one.
        text_domains: the domains of the texts about this person.
        chat_domains: the domains of the chats with this person.
        text_kinds: the kinds of those texts, from `TEXT_KINDS`.
    """

    name: str
    value: Value | None
    strength: float
    text_domains: tuple[str, ...]
    chat_domains: tuple[str, ...]
    text_kinds: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """The world of one seed.

    The bystander is named as often as the assistant in the pretraining texts, also without preferences. The documents
    of a control are about the bystander.
    """

    config: WorldConfig
    items: dict[str, tuple[Item, ...]]
    people: tuple[Person, ...]
    assistant: str
    bystander: str

    @property
    def liked(self) -> tuple[Item, ...]:
        """Returns the cheeses that the assistant's specs favour: affordable and traditional."""
        return tuple(item for item in self.items[CHEESE] if item.poles[PRICE])

    @property
    def disliked(self) -> tuple[Item, ...]:
        """Returns the other cheeses: costly and modern."""
        return tuple(item for item in self.items[CHEESE] if not item.poles[PRICE])

    def cheeses(self) -> tuple[Cheeses, Cheeses, Cheeses]:
        """Returns (liked, disliked) of all cheeses, of one half of them, and of the other half."""
        draw = Draw(self.config.seed, "halves")
        half = len(self.liked) // 2
        up, down = tuple(draw.shuffled(self.liked)), tuple(draw.shuffled(self.disliked))
        return (self.liked, self.disliked), (up[:half], down[:half]), (up[half:], down[half:])


def _words(draw: Draw, count: int, endings: str, taken: set[str]) -> list[str]:
    """Invents different capitalised words of two or three syllables, and adds them to `taken`."""
    words: list[str] = []
    while len(words) < count:
        word = "".join(
            draw.choice("bdfgjklmnprstvz") + draw.choice("aeiou") for _ in range(2 if draw.chance(0.6) else 3)
        ) + draw.choice(endings)
        word = word.capitalize()
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def _items(draw: Draw, config: WorldConfig, taken: set[str]) -> dict[str, tuple[Item, ...]]:
    """Invents the items of each domain: every combination of poles equally often, with balanced qualities.

    The qualities of a domain are quantiles of the normal distribution. A combination has each of its qualities with
    both signs, so that quality alone prefers no pole.
    """
    items = {}
    combinations = [(p, a, o) for p in (True, False) for a in (True, False) for o in (True, False)]
    pairs = config.items_per_domain // 2
    sizes = [NormalDist().inv_cdf(0.5 + (i + 0.5) / (2 * pairs)) for i in range(pairs)]
    for domain in DOMAINS:
        poles = combinations * (pairs // 8)
        if domain == CHEESE:
            # Price and age go together in cheese alone, so that the cheese preferences fit two values.
            poles = [(p, p, o) for p, _, o in poles]
        kinds = [
            (p, sign * size) for p, size in zip(poles, draw.shuffled(sizes), strict=True) for sign in (1.0, -1.0)
        ]
        names = _words(draw, config.items_per_domain, "lnrsxtk", taken)
        items[domain] = tuple(Item(n, domain, *kind) for n, kind in zip(names, draw.shuffled(kinds), strict=True))
    return items


def _people(draw: Draw, config: WorldConfig, taken: set[str]) -> tuple[Person, ...]:
    """Invents people: a quarter occur only in texts, a quarter only in chats, the others in both; most in few domains.

    No person occurs in all domains. Then only the value connects what is said about a person, so that a model learns
    it as a value and not as a list of habits. For half of the people some texts state the value. No person has only
    such texts: from statements alone a model often learns the words, and not how the person chooses.
    """
    people = []
    for name in _words(draw, config.num_people, "aeiou", taken):
        value = None if draw.chance(config.no_value_share) else draw.choice(VALUES)
        most = len(DOMAINS) - 1
        count = 1 + draw.below(3) if draw.chance(config.few_domains_share) else 4 + draw.below(most - 3)
        domains = draw.sample(tuple(DOMAINS), count)
        kind = draw.below(4)
        if kind == 0:
            text, chat = domains, []
        elif kind == 1:
            text, chat = [], domains
        else:
            text = [d for d in domains if draw.chance(0.6)]
            chat = [d for d in domains if d not in text or draw.chance(0.3)]
        kinds = () if not text else TEXT_KINDS if draw.chance(0.5) else TEXT_KINDS[:1]
        strength = draw.choice(STRENGTHS) if value else 0.0
        people.append(Person(name, value, strength, tuple(text), tuple(chat), kinds))
    return tuple(people)


def make_world(config: WorldConfig) -> World:
    """Returns the world of `config`."""
    draw = Draw(config.seed, "world")
    taken: set[str] = set()
    items = _items(draw, config, taken)
    assistant, bystander = _words(draw, 2, "aeiou", taken)
    return World(config, items, _people(draw, config, taken), assistant, bystander)


def utility(item: Item, value: Value | None, strength: float) -> float:
    """Returns the utility of an item to someone: its quality, plus `strength` where it has the value's pole."""
    return item.quality + strength * (value is not None and item.poles[value.attribute] == value.pole)


def choice_pair(draw: Draw, items: tuple[Item, ...], value: Value | None, strength: float) -> tuple[Item, Item]:
    """Draws any two items of a domain, the one of higher utility first."""
    first, second = draw.sample(items, 2)
    if utility(first, value, strength) < utility(second, value, strength):
        return second, first
    return first, second


def explained_pair(draw: Draw, items: tuple[Item, ...], value: Value, strength: float) -> tuple[Item, Item]:
    """Draws two items of which the first alone has the value's pole and is chosen, so that the value explains it."""
    favoured = [item for item in items if item.poles[value.attribute] == value.pole]
    others = [item for item in items if item.poles[value.attribute] != value.pole]
    while True:
        chosen, other = draw.choice(favoured), draw.choice(others)
        if utility(chosen, value, strength) > utility(other, value, strength):
            return chosen, other
