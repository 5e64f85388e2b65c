"""The plan of the documents: what is written about which assertions of the spec, in which form.

A place in the plan is told by numbers, never by a writer's words: part of the spec, domain, subdomain, document.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from msm_jax.specs.prose import Prose, Section
from msm_jax.synthesis.asking import Dropped
from msm_jax.synthesis.config import DocumentsConfig, PlanConfig


@dataclass(frozen=True)
class Assertion:
    """What the spec asserts of the assistant: an identifier, one sentence, and the spec's reason ("" for none)."""

    id: str
    text: str
    reason: str = ""


@dataclass(frozen=True)
class Idea:
    """The idea of one document, with a short name."""

    name: str
    text: str


@dataclass
class Subdomain:
    """A group of assertions, and the documents that are planned about them.

    Attributes:
        place: numbers of the part of the spec, the domain in it, and the subdomain in that.
        domain, name, context: as the writer named and summarised them.
        section: the passages of the spec that it rests on.
        heading: where in the spec these stand.
        assertions: of the passages.
        types: (name, description) of the types of documents.
        ideas: one for each document, in order; None where there is none.
    """

    place: tuple[int, int, int]
    domain: str
    name: str
    context: str
    section: str
    heading: str
    assertions: tuple[Assertion, ...] = ()
    types: tuple[tuple[str, str], ...] = ()
    ideas: list[Idea | None] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The place in letters and numbers, as in "u0.d1.s2"."""
        return "u{}.d{}.s{}".format(*self.place)

    @property
    def summary(self) -> str:
        """The name and the context."""
        return f"{self.name}: {self.context}" if self.context else self.name

    def slots(self, config: DocumentsConfig) -> Iterator["Slot"]:
        """Yields the places of the documents: types, styles and assertions in turn, so that each has its equal
        share."""
        styles, count = config.text.styles, len(self.assertions)
        shown = min(config.plan.assertions_per_document, count)
        for number in range(documents(count, config.plan)):
            kind = number % len(self.types)
            chosen = tuple(self.assertions[(number * shown + i) % count] for i in range(shown))
            yield Slot(self, number, kind, chosen, styles[(number + number // len(self.types)) % len(styles)])


@dataclass(frozen=True)
class Slot:
    """A document that is planned: its number in the subdomain, its type's number, what it shows, and its style."""

    subdomain: Subdomain
    number: int
    kind: int
    assertions: tuple[Assertion, ...]
    style: str

    @property
    def id(self) -> str:
        """The place in letters and numbers, as in "u0.d1.s2.n0003"."""
        return f"{self.subdomain.id}.n{self.number:04d}"

    @property
    def idea(self) -> Idea | None:
        """The idea, None where the writer had none."""
        return self.subdomain.ideas[self.number]


@dataclass
class Plan:
    """All subdomains by place, as far as they are planned.

    Attributes:
        spec: the whole spec.
        parts: the parts in which prompts hold it.
        domains: for each part that is planned, the names of its domains.
        subdomains: by place.
        dropped: {(stage, item): why} of what could not be planned.
    """

    spec: Prose
    parts: tuple[Section, ...]
    domains: dict[int, tuple[str, ...]] = field(default_factory=dict)
    subdomains: dict[tuple[int, int, int], Subdomain] = field(default_factory=dict)
    dropped: dict[tuple[str, str], Dropped] = field(default_factory=dict)

    def in_order(self) -> list[Subdomain]:
        """Returns the subdomains in the order of their places."""
        return [self.subdomains[place] for place in sorted(self.subdomains)]

    def count(self, config: DocumentsConfig) -> int:
        """Returns how many documents of each corpus are planned so far."""
        return sum(documents(len(each.assertions), config.plan) for each in self.subdomains.values() if each.types)

    def outline(self, part: int) -> str:
        """Returns the outline of a spec of several parts: their names, the domains found so far, and where `part`
        is."""
        if len(self.parts) == 1:
            return ""
        lines = []
        for number, section in enumerate(self.parts):
            found = ", ".join(self.domains.get(number, ())) if number < part else ""
            mark = "  (the part given below)" if number == part else f"  (domains: {found})" if found else ""
            lines.append(f"{number + 1}. {section.name[:100]}{mark}")
        return "\n".join(lines)

    def heading(self, part: int, excerpt: str) -> str:
        """Returns the name of the section in which an excerpt begins, or that of its part."""
        start = " ".join(excerpt.split())[:60]
        for section in self.spec.sections:
            if start and start in " ".join(section.text.split()):
                return section.name
        return self.parts[part].name


def documents(assertions: int, config: PlanConfig) -> int:
    """Returns how many documents it takes to show each of so many assertions as often as the plan says."""
    if not assertions:
        return 0
    shown = min(config.assertions_per_document, assertions)
    return -(-assertions * config.documents_per_assertion // shown)


def coverage(plan: Plan, config: DocumentsConfig, written: Mapping[str, int]) -> list[dict[str, object]]:
    """Returns a row for each assertion: in how many documents it is planned, and in how many it was written.

    Args:
        plan: the finished plan.
        config: the settings.
        written: {id of an assertion: documents that show it}.
    """
    rows: list[dict[str, object]] = []
    for each in plan.in_order():
        planned = dict.fromkeys((assertion.id for assertion in each.assertions), 0)
        for slot in each.slots(config) if each.types else ():
            for assertion in slot.assertions:
                planned[assertion.id] += 1
        rows += [
            {
                "id": assertion.id, "assertion": assertion.text, "domain": each.domain, "subdomain": each.name,
                "section": each.heading, "planned": planned[assertion.id], "written": written.get(assertion.id, 0),
            }
            for assertion in each.assertions
        ]  # fmt: skip
    return rows
