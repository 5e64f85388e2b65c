"""Asks writers: each question until its reply can be used, and no question whose reply is on disk."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing
from msm_jax.sampling.model import GenerateConfig, Message, Model, ModelOutput
from msm_jax.synthesis import parsing
from msm_jax.synthesis.budget import Budget
from msm_jax.synthesis.config import RunConfig
from msm_jax.synthesis.journal import Journal, Key, Reply
from msm_jax.synthesis.parsing import Unusable

T = TypeVar("T")

# Characters of a reply that cannot be used that are kept beside its reason, to show what a writer writes.
_SHOWN = 2000
# Characters of English text to a token, where a provider counts no tokens: the figure of OpenAI's own help pages.
CHARACTERS_PER_TOKEN = 4


class WriterStopped(WorkError):
    """The writer fails for good: no call will succeed until the user has done something."""


@dataclass
class Dropped(Exception):
    """An item that has no usable reply.

    Attributes:
        stage: the question's.
        item: the question's.
        reason: a code: those of `parsing.Unusable`, and refused, judged, no_idea, call_failed.
        detail: what was found last.
        reply: the beginning of the last reply, "" where there was none.
    """

    stage: str
    item: str
    reason: str
    detail: str
    reply: str = ""

    def row(self, meta: Mapping[str, object], item: str = "") -> dict[str, object]:
        """Returns the item as a row of `dropped.jsonl`; `item` names it in place of its own name."""
        return {
            "id": item or self.item, "stage": self.stage, "reason": self.reason, "detail": self.detail,
            "reply": parsing.clean(self.reply), "meta": dict(meta),
        }  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question to a writer.

    Attributes:
        stage: of the pipeline.
        item: the place in the plan, which no reply decides.
        prompt: the text of the only message, or of the last one after `before`.
        max_tokens: the most tokens of a reply.
        role: which of the writers is asked.
        before: messages before the prompt.
        temperature: in place of the writer's own.
        first_attempt: the number of the first attempt, for a question that may be asked several times over.
    """

    stage: str
    item: str
    prompt: str
    max_tokens: int
    role: str = "writer"
    before: tuple[Message, ...] = ()
    temperature: float | None = None
    first_attempt: int = 0

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that are sent."""
        return (*self.before, {"role": "user", "content": self.prompt})

    @property
    def sha256(self) -> str:
        """SHA-256 of the contents of the messages, joined by line breaks."""
        return hashing.sha256("\n".join(str(message["content"]) for message in self.messages).encode())


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What was made of a reply, the reply, and where it lies in the journal."""

    value: T
    reply: Reply
    key: Key


class Asker:
    """Asks the writers of one run.

    Attributes:
        unusable: {(stage, item, attempt): reason} of replies that were not usable.
        failed: {(stage, item): what failed} of calls that failed in this run; they are not on disk, so that the next
        run
            makes them again.
    """

    def __init__(
        self,
        journal: Journal,
        writers: Mapping[str, Model],
        names: Mapping[str, str],
        budget: Budget,
        config: RunConfig,
        heard: Callable[[], object] = lambda: None,
    ) -> None:
        """Takes the writers by role, the names of their models, which the journal's keys hold, and what is called after
        each reply."""
        self.budget = budget
        self.unusable: dict[tuple[str, str, int], str] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self._journal = journal
        self._writers = writers
        self._names = names
        self._config = config
        self._heard = heard
        self._failures_in_a_row = 0

    async def ask(self, question: Question, parse: Callable[[str], T]) -> Answer[T]:
        """Returns what `parse` makes of the first reply that it accepts.

        Replies on disk come first, and nothing is awaited for them.

        Args:
            question: to a writer.
            parse: returns a value for the text of a reply, or raises `Unusable`.

        Raises:
            Dropped: no reply can be used in as many attempts as the settings allow, or the call failed.
            CapReached: a cap is reached.
            WriterStopped: the writer fails for good.
        """
        problem, last = Unusable("call_failed", ""), ""
        for number in range(self._config.attempts):
            attempt = question.first_attempt + number
            key = Key(question.stage, question.item, question.sha256, attempt, self._names[question.role])
            reply = self._journal.find(key)
            if reply is None:
                reply = await self._call(question, key)
            try:
                if reply.stop_reason == "content_filter":
                    raise Unusable("refused", "the provider's filter stopped the reply")
                return Answer(parse(reply.text), reply, key)
            except Unusable as error:
                problem, last = error, reply.text
                self.unusable[question.stage, question.item, attempt] = error.reason
        raise Dropped(question.stage, question.item, problem.reason, problem.detail, last[:_SHOWN])

    async def _call(self, question: Question, key: Key) -> Reply:
        """Makes one call, and stores its reply; a call that has failed in this run is not made again in it."""
        place = (question.stage, question.item)
        if place in self.failed:
            raise Dropped(*place, "call_failed", self.failed[place])
        self.budget.check()
        config = GenerateConfig(
            max_tokens=question.max_tokens, temperature=question.temperature, seed=seed_of(self._config.seed, key)
        )
        try:
            output = await self._writers[question.role].generate(question.messages, config)
        except WriterStopped:
            raise
        except (WorkError, InputError) as error:
            self._failures_in_a_row += 1
            if self._failures_in_a_row > 2 * self._config.concurrency + 20:
                raise WriterStopped(f"{self._failures_in_a_row} calls in a row failed, the last so: {error}") from error
            self.failed[place] = str(error)
            raise Dropped(*place, "call_failed", str(error)) from error
        self._failures_in_a_row = 0
        reply = _reply(question, output)
        self._journal.store(key, reply)
        self.budget.add(key.writer, reply.input_tokens, reply.output_tokens)
        self._heard()
        return reply


def seed_of(seed: int, key: Key) -> int:
    """Returns the seed of a call, 31 bits: a function of the run's seed and of the place and number of the attempt."""
    source = f"{seed} {key.stage} {key.item} {key.attempt}".encode()
    return int.from_bytes(hashlib.sha256(source).digest()[:4], "big") >> 1


def tokens(text: str) -> int:
    """Returns an estimate of the number of tokens of a text."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _reply(question: Question, output: ModelOutput) -> Reply:
    if not output.choices:
        return Reply("", "unknown", *_usage(question, output, ""))
    choice = output.choices[0]
    text = str(choice.message.get("content") or "")
    thinking = str(choice.message.get("reasoning_content") or "")
    return Reply(text, choice.stop_reason, *_usage(question, output, text + thinking), thinking=thinking)


def _usage(question: Question, output: ModelOutput, text: str) -> tuple[int, int]:
    if output.usage:
        return output.usage.input_tokens, output.usage.output_tokens
    return tokens("".join(str(message["content"]) for message in question.messages)), tokens(text)
