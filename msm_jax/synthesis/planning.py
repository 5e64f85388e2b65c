"""The planning stages: spec → domains → subdomains → assertions → types of documents → ideas, as jobs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from msm_jax.specs.prose import Prose, units
from msm_jax.synthesis import parsing, prompts
from msm_jax.synthesis.asking import Asker, Dropped, Question
from msm_jax.synthesis.config import DocumentsConfig
from msm_jax.synthesis.jobs import Job
from msm_jax.synthesis.plan import Assertion, Idea, Plan, Slot, Subdomain

# The ranks of jobs: what leads to more work goes first.
DOMAINS, SUBDOMAINS, ASSERTIONS, IDEAS, TEXTS = range(5)

# The most ideas that a prompt lists as existing; the newest ones, since those before them were listed in earlier
# prompts.
_MOST_EXISTING = 60


def start(spec: Prose, config: DocumentsConfig) -> Plan:
    """Returns the plan before its first stage."""
    return Plan(spec, units(spec, config.spec.words))


@dataclass(frozen=True)
class Planner:
    """Plans documents.

    Attributes:
        plan: grows as replies arrive.
        config: the settings.
        asker: asks the writer.
        texts: returns the jobs of the documents with these slots, once they have their ideas.
    """

    plan: Plan
    config: DocumentsConfig
    asker: Asker
    texts: Callable[[Sequence[Slot]], Iterable[Job]]

    def first(self) -> list[Job]:
        """Returns the jobs with which planning begins.

        In rules mode, the numbered principles of a spec are its subdomains, and no writer is asked for them.
        """
        if self.config.mode == "rules" and self.plan.spec.principles:
            return self._of_principles()
        return [Job(DOMAINS, (0,), self._domains, (0,))]

    def _of_principles(self) -> list[Job]:
        jobs = []
        sections = list(dict.fromkeys(each.section for each in self.plan.spec.principles))
        for number, each in enumerate(self.plan.spec.principles):
            start = " ".join(each.text.split())[:60]
            found = (i for i, part in enumerate(self.plan.parts) if start in " ".join(part.text.split()))
            place = (next(found, 0), sections.index(each.section), number)
            name = f"{each.id}: {' '.join(each.text.split()[:8])}"
            subdomain = Subdomain(place, each.section, name, "", f"{each.id}: {each.text}", each.section)
            subdomain.assertions = (Assertion(each.id, each.text),)
            jobs.append(Job(ASSERTIONS, place, self._types, (subdomain,)))
        return jobs

    async def _domains(self, part: int) -> list[Job]:
        """Finds the domains of one part of the spec, after those of the parts before it."""
        plan, config = self.plan, self.config
        jobs = [Job(DOMAINS, (part + 1,), self._domains, (part + 1,))] if part + 1 < len(plan.parts) else []
        prompt = self._prompt(
            "domains",
            outline=plan.outline(part),
            spec=plan.parts[part].text,
            existing=_lines(name for names in plan.domains.values() for name in names),
            count=config.plan.domains,
        )
        found = await self._list("domains", f"u{part}", prompt, ("domain",), ("description",), config.plan.domains)
        names = plan.domains[part] = tuple(_name(each["domain"]) for each in found)
        for number, (name, each) in enumerate(zip(names, found, strict=True)):
            domain = f"{name}: {each['description']}" if each["description"] else name
            jobs.append(Job(SUBDOMAINS, (part, number), self._subdomains, (part, number, name, domain)))
        return jobs

    async def _subdomains(self, part: int, domain: int, name: str, description: str) -> list[Job]:
        config = self.config
        prompt = self._prompt(
            "subdomains", spec=self.plan.parts[part].text, domain=description, count=config.plan.subdomains
        )
        found = await self._list(
            "subdomains", f"u{part}.d{domain}", prompt, ("subdomain",), ("context", "excerpts"), config.plan.subdomains
        )
        jobs = []
        for number, each in enumerate(found):
            # Without passages of its own, a subdomain rests on the whole part.
            section = each["excerpts"] or self.plan.parts[part].text
            place = (part, domain, number)
            heading = self.plan.heading(part, each["excerpts"])
            subdomain = Subdomain(place, name, _name(each["subdomain"]), each["context"], section, heading)
            jobs.append(Job(ASSERTIONS, place, self._assertions, (subdomain,)))
        return jobs

    async def _assertions(self, subdomain: Subdomain) -> list[Job]:
        prompt = self._prompt(
            "assertions", subdomain=subdomain.summary, section=subdomain.section, count=self.config.plan.assertions
        )
        found = await self._list(
            "assertions", subdomain.id, prompt, ("assertion",), ("explanation",), self.config.plan.assertions
        )
        subdomain.assertions = tuple(
            Assertion(f"{subdomain.id}.a{number}", each["assertion"], each["explanation"])
            for number, each in enumerate(found)
        )
        return await self._types(subdomain) if found else []

    async def _types(self, subdomain: Subdomain) -> list[Job]:
        prompt = self._prompt(
            "document_types",
            domain=subdomain.domain,
            subdomain=subdomain.summary,
            existing="",
            count=self.config.plan.document_types,
        )
        most = self.config.plan.document_types
        found = await self._list(
            "document_types", subdomain.id, prompt, ("document_type",), ("description",), most
        )
        if not found:
            return []
        subdomain.types = tuple((_name(each["document_type"]), each["description"]) for each in found)
        slots = list(subdomain.slots(self.config))
        subdomain.ideas = [None] * len(slots)
        self.plan.subdomains[subdomain.place] = subdomain
        by_kind = [[slot for slot in slots if slot.kind == kind] for kind in range(len(found))]
        return [
            Job(IDEAS, (*subdomain.place, kind, 0), self._ideas, (subdomain, kind, waiting, 0, ()))
            for kind, waiting in enumerate(by_kind)
            if waiting
        ]

    async def _ideas(
        self, subdomain: Subdomain, kind: int, waiting: Sequence[Slot], call: int, existing: tuple[Idea, ...]
    ) -> list[Job]:
        """Asks for the ideas of the next documents of one type; those that come short are asked for in the next
        call."""
        config = self.config.plan
        count = min(config.ideas_per_call, len(waiting))
        name, description = subdomain.types[kind]
        prompt = self._prompt(
            "ideas",
            section=subdomain.section,
            domain=subdomain.domain,
            subdomain=subdomain.summary,
            assertions=_numbered(subdomain.assertions),
            document_type=f"{name}: {description}" if description else name,
            existing=_lines(f"{idea.name}: {idea.text}" for idea in existing[-_MOST_EXISTING:]),
            count=count,
        )
        item = f"{subdomain.id}.t{kind}.c{call}"
        found = [
            Idea(_name(each["name"]), each["idea"])
            for each in await self._list("ideas", item, prompt, ("idea",), ("name",), 10 * count)
        ]
        # Two ideas with one name are two ideas; the same idea twice is one.
        known = {_folded(idea.text) for idea in existing}
        new = list({folded: idea for idea in found if (folded := _folded(idea.text)) not in known}.values())[:count]
        if not new:
            self.plan.dropped.setdefault(("ideas", item), Dropped("ideas", item, "no_idea", "it holds no new idea"))
            return []
        for slot, idea in zip(waiting, new, strict=False):
            subdomain.ideas[slot.number] = idea
        jobs = list(self.texts(waiting[: len(new)]))
        if rest := waiting[len(new) :]:
            args = (subdomain, kind, rest, call + 1, (*existing, *new))
            jobs.append(Job(IDEAS, (*subdomain.place, kind, call + 1), self._ideas, args))
        return jobs

    def _prompt(self, stage: str, **values: str | int) -> str:
        spec = self.config.spec
        return prompts.load(stage).fill(
            assistant=spec.assistant, provider=spec.provider, mode=self.config.mode, **values
        )

    async def _list(
        self, stage: str, item: str, prompt: str, required: tuple[str, ...], optional: tuple[str, ...], most: int
    ) -> list[dict[str, str]]:
        """Returns the objects of a reply, none where no reply can be used; the plan then says why."""

        def parse(reply: str) -> list[dict[str, str]]:
            return parsing.objects(reply, required, optional)[0][:most]

        role = "planner" if self.config.planner else "writer"
        try:
            answer = await self.asker.ask(Question(stage, item, prompt, self.config.plan.list_tokens, role), parse)
        except Dropped as dropped:
            self.plan.dropped[stage, item] = dropped
            return []
        return answer.value


def _name(text: str) -> str:
    """Returns a name in one line; a writer may give one of any length."""
    return " ".join(text.split())[:120]


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(text.split())}" for text in texts)


def _numbered(assertions: Sequence[Assertion]) -> str:
    return "\n".join(f"A{number}: {text_of(assertion)}" for number, assertion in enumerate(assertions, 1))


def text_of(assertion: Assertion) -> str:
    """Returns an assertion in one line, with the spec's reason."""
    reason = f" | reason: {assertion.reason}" if assertion.reason else ""
    return " ".join(f"{assertion.text}{reason}".split())


def _folded(text: str) -> str:
    return " ".join(text.lower().split())
