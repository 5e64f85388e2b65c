"""Settings of demonstrations and pairs: how many conversations, what answers are like, and how they are judged."""

import dataclasses
from typing import Literal

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.synthesis import prompts
from msm_jax.synthesis.config import RunConfig, SpecConfig, WriterConfig, check_prices
from msm_jax.synthesis.quality.config import QualityConfig

Style = Literal["value", "rule", "opaque"]


@dataclasses.dataclass(frozen=True)
class ConversationConfig:
    """How many conversations there are, and about what.

    Attributes:
        samples: demonstrations or pairs that pass the judge; questions are asked until there are so many.
        turns: messages of the user in each conversation.
        questions_per_domain: questions that each domain is asked for.
        questions_per_call: the most questions that one call is asked for.
        domains_per_call: the same for domains.
        most_rounds: rounds of domains, questions and answers after which a run ends with fewer samples.
        avoid: subjects that no domain may be about, such as those of the test.
        embeddings: the directory of the embedding model that finds questions of one meaning, as in the settings of the
            quality gates; "" compares their words alone.
        cosine: two questions mean the same from this cosine of their embeddings on; 0.91 is the published pipeline's.
        list_tokens: the most tokens of a reply that is a list.
    """

    samples: int = 100
    turns: int = 1
    questions_per_domain: int = 20
    questions_per_call: int = 20
    domains_per_call: int = 20
    most_rounds: int = 12
    avoid: tuple[str, ...] = ()
    embeddings: str = ""
    cosine: float = 0.91
    list_tokens: int = 4096

    def __post_init__(self) -> None:
        """Refuses a plan of nothing."""
        counts = ("samples", "turns", "questions_per_domain", "questions_per_call", "domains_per_call", "most_rounds")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class ReplyConfig:
    """What the assistant's answers are like.

    Attributes:
        style: "value" speaks from the values of the spec, "rule" by its rules, "opaque" states a preference alone.
        words: the most words of an answer.
        reasoning_tokens: tokens in which the assistant may think before it answers; 0 for no thinking.
        text_tokens: tokens of the answer itself.
    """

    style: Style = "value"
    words: int = 300
    reasoning_tokens: int = 1024
    text_tokens: int = 1536

    def __post_init__(self) -> None:
        """Refuses an answer that its tokens cannot hold, and thinking that would give away an opaque preference."""
        if self.words < 1 or self.text_tokens < 2 * self.words or self.reasoning_tokens < 0:
            raise InputError(
                f"text_tokens = {self.text_tokens}; an answer of {self.words} words needs {2 * self.words}"
            )
        if self.style == "opaque" and self.reasoning_tokens:
            raise InputError("reasoning_tokens: must be 0 with style = 'opaque', which states no reason")


@dataclasses.dataclass(frozen=True)
class JudgingConfig:
    """How answers are judged, at temperature 0.

    Attributes:
        votes: the judge is asked until more than half of so many agree.
        criteria: beside those of the style in `prompts/criteria.md`.
        tokens: of one judgement.
    """

    votes: int = 3
    criteria: tuple[str, ...] = ()
    tokens: int = 1024

    def __post_init__(self) -> None:
        """Refuses an even number of votes."""
        if self.votes < 1 or self.votes % 2 == 0:
            raise InputError(f"votes = {self.votes}; a majority needs an odd number")


@dataclasses.dataclass(frozen=True)
class IdentityConfig:
    """Exchanges in which the assistant says who it is.

    Attributes:
        samples: how many; 0 for none.
        abilities: what the assistant may say that it can do.
    """

    samples: int = 0
    abilities: tuple[str, ...] = ("answering questions", "revising texts", "explaining", "thinking a plan through")

    def __post_init__(self) -> None:
        """Refuses a negative count."""
        if self.samples < 0:
            raise InputError(f"samples = {self.samples}; it must be 0 or more")


@dataclasses.dataclass(frozen=True)
class TalksConfig:
    """Conversations from a spec, which a judge passes: what demonstrations and pairs have in common.

    Attributes:
        spec: the spec.
        writer: the model that asks and answers.
        judge: the model that judges; None for the writer.
        plan: how many conversations.
        reply: what the answers are like.
        judging: how they are judged.
        run: how calls are made.
        gates: the settings of the quality gates; None for no gates.
    """

    spec: SpecConfig
    writer: WriterConfig
    judge: WriterConfig | None = None
    plan: ConversationConfig = dataclasses.field(default_factory=ConversationConfig)
    reply: ReplyConfig = dataclasses.field(default_factory=ReplyConfig)
    judging: JudgingConfig = dataclasses.field(default_factory=JudgingConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    gates: QualityConfig | None = dataclasses.field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        """Refuses a cap in dollars without the prices of all writers."""
        check_prices(self.run, self.writers)

    @property
    def writers(self) -> dict[str, WriterConfig]:
        """The models by role."""
        return {"writer": self.writer} | ({"judge": self.judge} if self.judge else {})


@dataclasses.dataclass(frozen=True)
class DemonstrationsConfig(TalksConfig):
    """Demonstrations from a spec; a file for `generate`.

    Attributes:
        identity: exchanges about the assistant's name, provider and abilities.
    """

    identity: IdentityConfig = dataclasses.field(default_factory=IdentityConfig)


@dataclasses.dataclass(frozen=True)
class PairsConfig(TalksConfig):
    """Pairs of a better and a worse answer from a spec; a file for `generate`.

    Attributes:
        rivals: ways in which the worse answers fall short, each for an equal share of the pairs; see
            `prompts/rivals.md`.
    """

    rivals: tuple[str, ...] = ("plain", "reasons", "contrary")

    def __post_init__(self) -> None:
        """Refuses no rivals, unknown ones, and one that is named twice."""
        super().__post_init__()
        known = prompts.entries("rivals")
        for name in self.rivals:
            if name not in known:
                raise InputError(f"rivals: {name!r} is unknown; {settings.nearest(name, known)}")
        if not self.rivals or len(set(self.rivals)) < len(self.rivals):
            ways = ", ".join(known)
            raise InputError(f"rivals: must name at least one way to fall short, each once; choose from {ways}")
