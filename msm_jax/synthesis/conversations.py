"""One conversation: the user's messages, the assistant's answers with their thinking, and the judge's votes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_jax.specs.prose import Prose, Section
from msm_jax.synthesis import parsing, prompts
from msm_jax.synthesis.asking import Answer, Asker, Dropped, Question
from msm_jax.synthesis.chat_config import TalksConfig
from msm_jax.synthesis.parsing import Unusable

_REASONING = re.compile(r"<reasoning>(.*?)</reasoning>", re.DOTALL)


@dataclass(frozen=True)
class Domain:
    """A kind of situation: its number, the part of the spec that bears on it, and how the writer described it."""

    number: int
    part: int
    name: str
    description: str


@dataclass(frozen=True)
class Opening:
    """The first message of a conversation, at a place that no reply decides: domain and number in it."""

    domain: Domain
    number: int
    text: str
    kind: str

    @property
    def id(self) -> str:
        """The place in letters and numbers, as in "d0003.q0017"."""
        return f"d{self.domain.number:04d}.q{self.number:04d}"


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a conversation, with its votes."""

    passed: bool
    votes: Mapping[str, int]


@dataclass(frozen=True)
class Spoken:
    """An answer of the assistant: its thinking ("" for none), its text, and the reply that it was read from."""

    thinking: str
    text: str
    source: Answer[tuple[str, str]]

    @property
    def shown(self) -> str:
        """The answer as a judge sees it, its thinking first."""
        return f"Thinking: {self.thinking}\n\nAnswer: {self.text}" if self.thinking else self.text

    @property
    def message(self) -> dict[str, str]:
        """The answer as a message."""
        thought = {"reasoning_content": self.thinking} if self.thinking else {}
        return {"role": "assistant", "content": self.text, **thought}

    @property
    def answer(self) -> str | list[dict[str, str]]:
        """The answer as a pair has it: its text, or with thinking a list of its message."""
        return [self.message] if self.thinking else self.text


@dataclass
class Conversation:
    """A conversation: the user's messages and the assistant's answers, in turn."""

    opening: Opening
    asked: list[str] = field(default_factory=list)
    answers: list[Spoken] = field(default_factory=list)

    def transcript(self, with_thinking: bool) -> str:
        """Returns the conversation as a prompt shows it."""
        lines = []
        for question, answer in zip(self.asked, self.answers, strict=False):
            thought = f"Assistant, thinking: {answer.thinking}\n\n" if with_thinking and answer.thinking else ""
            lines.append(f"User: {question}\n\n{thought}Assistant: {answer.text}")
        return "\n\n".join(lines)

    @property
    def before(self) -> str:
        """The conversation before its last message of the user, without thinking."""
        return Conversation(self.opening, self.asked[:-1], self.answers).transcript(False)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages, the last one of which is an answer."""
        found: list[dict[str, str]] = []
        for question, answer in zip(self.asked, self.answers, strict=True):
            found += [{"role": "user", "content": question}, answer.message]
        return found


@dataclass(frozen=True)
class Speaker:
    """Leads conversations about one spec, and has them judged."""

    spec: Prose
    parts: Sequence[Section]
    config: TalksConfig
    asker: Asker

    async def judged(self, opening: Opening) -> tuple[Conversation, Verdict]:
        """Returns a conversation that the judge passes, with its verdict.

        Raises:
            Dropped: a reply cannot be used, or the judge does not pass the conversation (reason "judged").
        """
        talk = await self.conversation(opening)
        verdict = await self.verdict(talk)
        if not verdict.passed:
            against = f"{verdict.votes['fail']} votes against it"
            raise Dropped("judge", opening.id, "judged", against, talk.transcript(True))
        return talk, verdict

    async def conversation(self, opening: Opening) -> Conversation:
        """Returns a conversation of as many turns as the settings say.

        Raises:
            Dropped: a reply cannot be used.
        """
        talk = Conversation(opening, [opening.text])
        for turn in range(self.config.plan.turns):
            item = f"{opening.id}.{turn}"
            if turn:
                prompt = self.prompt("follow_up", opening.domain, conversation=talk.transcript(False))
                tokens = self.config.reply.text_tokens
                follow_up = await self.asker.ask(Question("follow_up", item, prompt, tokens), parsing.content)
                talk.asked.append(follow_up.value)
            talk.answers.append(await self._answer(talk, item))
        return talk

    async def _answer(self, talk: Conversation, item: str) -> Spoken:
        prompt = self.prompt(
            "response",
            talk.opening.domain,
            conversation=talk.transcript(False),
            question=talk.asked[-1],
            length=self.length,
            reasoning_note=self.reasoning_note,
        )
        return await self.spoken("response", item, prompt)

    @property
    def length(self) -> str:
        """How long an answer may be, in words."""
        return f"{self.config.reply.words} words"

    @property
    def reasoning_note(self) -> str:
        """What a prompt says of thinking before the answer."""
        note = "First think, between <reasoning> and </reasoning>, about what matters in this case and what follows."
        return note if self.config.reply.reasoning_tokens else "Answer at once."

    async def spoken(self, stage: str, item: str, prompt: str) -> Spoken:
        """Returns the assistant's answer to the prompt of a stage.

        Raises:
            Dropped: no reply can be used.
        """
        reply = self.config.reply
        tokens = reply.reasoning_tokens + reply.text_tokens

        def parse(text: str) -> tuple[str, str]:
            content = parsing.content(text)
            found = _REASONING.search(text)
            if reply.reasoning_tokens and not (found and found[1].strip()):
                raise Unusable("no_reasoning", "nothing stands between <reasoning> and </reasoning>")
            return parsing.clean(found[1]) if found and reply.reasoning_tokens else "", content

        answer = await self.asker.ask(Question(stage, item, prompt, tokens), parse)
        return Spoken(*answer.value, answer)

    async def verdict(self, talk: Conversation) -> Verdict:
        """Returns the judge's verdict; it is asked until one side has more than half of the votes.

        Raises:
            Dropped: a vote cannot be read.
        """
        judging, last = self.config.judging, len(talk.asked) == 1
        prompt = self.prompt(
            "judge",
            talk.opening.domain,
            criteria=self.criteria_text,
            question=talk.asked[0] if last else "",
            response=talk.transcript(True),
        )
        votes = {"pass": 0, "fail": 0}
        while max(votes.values()) <= judging.votes // 2:
            item = f"{talk.opening.id}.v{sum(votes.values())}"
            question = Question("judge", item, prompt, judging.tokens, role=self.judge, temperature=0.0)
            votes[(await self.asker.ask(question, _vote)).value] += 1
        return Verdict(votes["pass"] > votes["fail"], votes)

    @property
    def judge(self) -> str:
        """The role of the model that judges."""
        return "judge" if self.config.judge else "writer"

    @property
    def criteria(self) -> list[str]:
        """The criteria of the judge: those of the style, and those of the settings."""
        given = prompts.entries("criteria")[self.config.reply.style].splitlines()
        return [*filter(None, (line.strip() for line in given)), *self.config.judging.criteria]

    @property
    def criteria_text(self) -> str:
        """The criteria as a prompt lists them."""
        return "\n".join(f"{n}. {text}" for n, text in enumerate(self.criteria, 1))

    def prompt(self, stage: str, domain: Domain, **values: str | int) -> str:
        """Returns the prompt of a stage about a domain."""
        spec, style = self.config.spec, self.config.reply.style
        known: dict[str, str | int] = {
            "assistant": spec.assistant, "provider": spec.provider, "style": style,
            "spec": self.parts[domain.part].text,
            "style_note": prompts.entries("question_styles" if stage == "questions" else "answer_styles")[style],
            "domain": f"{domain.name}: {domain.description}" if domain.description else domain.name,
        }  # fmt: skip
        return prompts.load(stage).fill(**known, **values)

    def meta(self, talk: Conversation, verdict: Verdict) -> dict[str, Any]:
        """Returns where a conversation came from."""
        source = talk.answers[-1].source
        return {
            "id": talk.opening.id,
            "spec": self.spec.title,
            "spec_sha256": self.spec.sha256,
            "section": self.parts[talk.opening.domain.part].name,
            "domain": talk.opening.domain.name,
            "question_type": talk.opening.kind,
            "style": self.config.reply.style,
            "writer": self.config.writer.model,
            "judge": self.config.writers[self.judge].model,
            "votes": dict(verdict.votes),
            "template_sha256": prompts.load("response").sha256,
            "prompt_sha256": source.key.prompt_sha256,
            "attempt": source.key.attempt,
            "seed": self.config.run.seed,
        }


def _vote(reply: str) -> str:
    """Returns "pass" or "fail" from a judge's reply."""
    found = parsing.tagged(reply, "verdict").lower()
    if found not in ("pass", "fail"):
        raise Unusable("no_verdict", f"the verdict is {found[:60]!r}, neither pass nor fail")
    return found
