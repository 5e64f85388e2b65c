"""Finds the first messages of conversations: domains, questions for each, and which of these are alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msm_jax.synthesis import jobs, parsing, prompts, writers
from msm_jax.synthesis.asking import Dropped, Question
from msm_jax.synthesis.conversations import Domain, Opening, Speaker
from msm_jax.synthesis.jobs import Job

# A domain that gives no new question in so many calls is left; the published pipeline stopped at as many failures.
_MOST_EMPTY_CALLS = 3
# The most existing elements that a prompt lists; the newest ones.
_MOST_EXISTING = 100


@dataclass
class _Asked:
    """A domain with its questions so far, the calls made for them, and how many of these in a row gave none."""

    domain: Domain
    questions: list[tuple[str, str]] = field(default_factory=list)
    calls: int = 0
    empty: int = 0


@dataclass
class Openings:
    """The domains and questions of a run, which grow round by round.

    Attributes:
        speaker: has the settings, and asks.
        alike: returns whether a question is like one before; it is asked once for each, in order.
        dropped: calls that gave nothing.
        duplicates: how many questions were like another.
    """

    speaker: Speaker
    alike: Callable[[Sequence[str]], Sequence[bool]]
    dropped: list[Dropped] = field(default_factory=list)
    duplicates: int = 0
    _domains: list[_Asked] = field(default_factory=list)
    _domain_calls: int = 0

    async def more(self, count: int) -> list[Opening]:
        """Returns up to about `count` further openings, none where the writer has no more.

        New domains are asked first, and where there are none, the existing ones again.
        """
        config = self.speaker.config
        plan = config.plan
        wanted = math.ceil(count / plan.questions_per_domain)
        new = await self._new_domains(wanted)
        chosen = new or [each for each in self._domains if each.empty < _MOST_EMPTY_CALLS][:wanted]
        shares = _shares(count, len(chosen))
        before = [len(each.questions) for each in chosen]
        first = [
            Job(0, (each.domain.number, each.calls), self._questions, (each, len(each.questions) + share))
            for each, share in zip(chosen, shares, strict=True)
        ]
        await jobs.run(first, config.run.concurrency, writers.are_spread(config.writers))
        found = [
            Opening(each.domain, number, *each.questions[number])
            for each, start in zip(chosen, before, strict=True)
            for number in range(start, len(each.questions))
        ]
        is_alike = self.alike([opening.text for opening in found])
        self.duplicates += sum(is_alike)
        return [opening for opening, alike in zip(found, is_alike, strict=True) if not alike]

    async def _new_domains(self, wanted: int) -> list[_Asked]:
        """Asks for domains, from the parts of the spec in turn, until there are enough or each part gave none."""
        plan, parts = self.speaker.config.plan, len(self.speaker.parts)
        found: list[_Asked] = []
        empty = 0
        while len(found) < wanted and empty < parts:
            part = self._domain_calls % parts
            item = f"c{self._domain_calls}"
            self._domain_calls += 1
            known = [each.domain for each in (*self._domains, *found)]
            # Each part has its share of the domains that are missing.
            count = min(plan.domains_per_call, math.ceil((wanted - len(found)) / (parts - empty)))
            prompt = prompts.load("conversation_domains").fill(
                assistant=self.speaker.config.spec.assistant, provider=self.speaker.config.spec.provider,
                spec=self.speaker.parts[part].text, avoid="\n".join(plan.avoid), count=count,
                existing="\n".join(f"- {domain.name}" for domain in known[-_MOST_EXISTING:]),
            )  # fmt: skip
            names = {_folded(domain.name) for domain in known}
            fresh = []
            for each in await self._list("conversation_domains", item, prompt, ("domain",), ("description",)):
                if _folded(each["domain"]) not in names:
                    names.add(_folded(each["domain"]))
                    fresh.append(each)
            empty = 0 if fresh else empty + 1
            for each in fresh[:count]:
                found.append(_Asked(Domain(len(known), part, each["domain"], each["description"])))
                known.append(found[-1].domain)
        self._domains += found
        return found

    async def _questions(self, asked: _Asked, until: int) -> list[Job]:
        """Makes one call for questions of a domain, and returns the job of the next one where some are missing."""
        plan, domain = self.speaker.config.plan, asked.domain
        count = min(plan.questions_per_call, until - len(asked.questions))
        prompt = self.speaker.prompt(
            "questions",
            domain,
            existing="\n".join(f"- {_line(text)}" for text, _ in asked.questions[-_MOST_EXISTING:]),
            count=count,
        )
        item = f"d{domain.number:04d}.c{asked.calls}"
        asked.calls += 1
        known = {_folded(text) for text, _ in asked.questions}
        found = await self._list("questions", item, prompt, ("question",), ("question_type",))
        fresh = list({
            folded: (each["question"], each["question_type"])
            for each in found if (folded := _folded(each["question"])) not in known
        }.values())[:count]  # fmt: skip
        asked.questions += fresh
        asked.empty = 0 if fresh else asked.empty + 1
        if len(asked.questions) >= until or asked.empty >= _MOST_EMPTY_CALLS:
            return []
        return [Job(0, (domain.number, asked.calls), self._questions, (asked, until))]

    async def _list(
        self, stage: str, item: str, prompt: str, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> list[dict[str, str]]:
        """Returns the objects of a reply, none where no reply can be used."""
        question = Question(stage, item, prompt, self.speaker.config.plan.list_tokens)
        try:
            answer = await self.speaker.asker.ask(question, lambda reply: parsing.objects(reply, required, optional)[0])
            return answer.value
        except Dropped as dropped:
            self.dropped.append(dropped)
            return []


def _shares(count: int, parts: int) -> list[int]:
    """Returns a count as a sum of so many parts, as equal as can be, none of them 0."""
    return [max(1, count // parts + (index < count % parts)) for index in range(parts)]


def _folded(text: str) -> str:
    return _line(text).lower()


def _line(text: str) -> str:
    return " ".join(text.split())
