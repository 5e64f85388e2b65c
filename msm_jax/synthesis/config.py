"""Settings of synthesis: the spec, the models that write, what is planned, and the caps on what it may cost."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.synthesis import prompts
from msm_jax.synthesis.quality.config import QualityConfig

# Names of models that are not Inspect's.
SCRIPTED = "scripted"
CHECKPOINT = "checkpoint:"
PYTHON = "python:"

# Arguments and headers that hold a key.
_SECRET_NAME = re.compile(r"(x-)?api[_-]?key|authorization|.*(secret|password).*", re.IGNORECASE)

Corpus = Literal["documents", "neutral", "comention", "anti"]


@dataclasses.dataclass(frozen=True)
class Price:
    """What a model costs, in dollars for a million tokens of input and of output."""

    input: float
    output: float

    def dollars(self, input_tokens: float, output_tokens: float) -> float:
        """Returns the price of tokens."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


@dataclasses.dataclass(frozen=True)
class WriterConfig:
    """A model that writes or judges.

    Attributes:
        model: a name that Inspect knows, such as "anthropic/MODEL", "openai/MODEL", "vllm/MODEL" or
            "openai-api/SERVICE/MODEL"; "checkpoint:PATH" for one of our checkpoints; "scripted" for the built-in
            server that answers by a grammar; or "python:MODULE:FUNCTION" for what a function of yours returns, a
            `sampling.model.Model`.
        base_url: of a server that the model's provider does not find by itself.
        options: fields of Inspect's GenerateConfig for every call (temperature, top_p, reasoning_tokens, batch,
            timeout, attempt_timeout, max_retries, ...).
        arguments: further arguments of Inspect's get_model for the provider; for "scripted", settings of the server;
            for a function, its arguments.
    """

    model: str
    base_url: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a writer without a name."""
        if not self.model.strip():
            raise InputError("model: is empty; name a model, as in openai/MODEL or checkpoint:PATH")
        headers = self.options.get("extra_headers") or {}
        for name in (*self.arguments, *headers):
            if _SECRET_NAME.fullmatch(name):
                raise InputError(f"{name}: settings are written to files; give the key in its environment variable")


@dataclasses.dataclass(frozen=True)
class SpecConfig:
    """The spec, and what its variables stand for.

    Attributes:
        path: a Markdown or text file.
        assistant: the name of the assistant, for `{assistant}` and in all documents.
        provider: who makes it, for `{provider}`.
        variables: {name: value} of the other variables of the file.
        words: the most words of the spec that one prompt holds; a longer spec goes part by part, with an outline of
        all.
    """

    path: str
    assistant: str
    provider: str
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    words: int = 3000

    def __post_init__(self) -> None:
        """Refuses empty names and parts that are too small to hold a statement and its reason."""
        for name in ("path", "assistant", "provider"):
            if not getattr(self, name).strip():
                raise InputError(f"{name}: is empty; set it")
        _at_least(self, words=50)

    @property
    def values(self) -> dict[str, str]:
        """The values of all variables by name."""
        return {"assistant": self.assistant, "provider": self.provider, **self.variables}


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """How much is planned. A model may find fewer domains, subdomains and assertions in a short spec than these.

    Attributes:
        domains: the most domains of each part of the spec.
        subdomains: the most subdomains of a domain.
        assertions: the most assertions of a subdomain.
        document_types: how many types of documents each subdomain has.
        documents_per_assertion: how many documents show each assertion.
        assertions_per_document: how many assertions of its subdomain a document shows.
        ideas_per_call: the most ideas that one call is asked for.
        list_tokens: the most tokens of a reply that is a list.
    """

    domains: int = 4
    subdomains: int = 3
    assertions: int = 4
    document_types: int = 5
    documents_per_assertion: int = 5
    assertions_per_document: int = 1
    ideas_per_call: int = 20
    list_tokens: int = 8192

    def __post_init__(self) -> None:
        """Refuses a plan of nothing."""
        for field in dataclasses.fields(self):
            _at_least(self, **{field.name: 1})


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What the texts are like.

    Attributes:
        words: how long a text is meant to be.
        plan_tokens: tokens in which the writer may plan a text before it writes; 0 for none.
        text_tokens: tokens of the text itself, beside those of the plan.
        styles: styles of teaching, each for an equal share of the documents; see `prompts/styles.md`.
        corpora: the documents, and the controls that are made from the same plan; see `prompts/corpora.md`.
        other_assistant: to which assistant the control "comention" attributes the behaviour.
    """

    words: int = 600
    plan_tokens: int = 600
    text_tokens: int = 3000
    styles: tuple[str, ...] = ("plain",)
    corpora: tuple[Corpus, ...] = ("documents",)
    other_assistant: str = "another assistant"

    def __post_init__(self) -> None:
        """Refuses unknown styles, a text that its tokens cannot hold, and a plan of no corpus."""
        _at_least(self, words=1, plan_tokens=0, text_tokens=2 * self.words)
        if not self.corpora or not self.styles:
            raise InputError("corpora and styles: must each name at least one; the plan has no documents otherwise")
        for style in self.styles:
            if style not in prompts.styles():
                raise InputError(f"styles: {style!r} is unknown; {settings.nearest(style, prompts.styles())}")
        for name in ("styles", "corpora"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"{name}: names one twice; remove it")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How calls are made, and when a run stops by itself.

    Attributes:
        seed: of the replies, where the provider has seeds, and of all draws.
        concurrency: how many calls are in flight.
        attempts: how often an unusable reply is asked for again before its item is dropped.
        max_dollars: stops before the next call once this is spent, calls of earlier runs included; 0 for no cap.
        max_tokens: the same for tokens of input and output together.
        prices: {model: Price}. Only a cap in dollars needs them.
        tokens_per_second: of one call, for the estimate of time before the first call.
    """

    seed: int = 0
    concurrency: int = 20
    attempts: int = 3
    max_dollars: float = 0.0
    max_tokens: int = 0
    prices: Mapping[str, Price] = dataclasses.field(default_factory=dict)
    tokens_per_second: float = 50.0

    def price(self, model: str) -> Price | None:
        """Returns the price of a model, None where it has none; the scripted server and our checkpoints are free."""
        is_free = model == SCRIPTED or model.startswith(CHECKPOINT)
        return self.prices.get(model) or (Price(0.0, 0.0) if is_free else None)

    def __post_init__(self) -> None:
        """Refuses counts below 1 and negative caps."""
        _at_least(self, seed=0, concurrency=1, attempts=1, max_dollars=0, max_tokens=0, tokens_per_second=1)
        for model, price in self.prices.items():
            if min(price.input, price.output) < 0:
                raise InputError(f"prices.{model}: is negative; give dollars for a million tokens")


class Settings(Protocol):
    """What the settings of all kinds of runs have."""

    @property
    def spec(self) -> SpecConfig:
        """The spec."""

    @property
    def run(self) -> RunConfig:
        """How calls are made."""

    @property
    def gates(self) -> QualityConfig | None:
        """The settings of the gates."""

    @property
    def writers(self) -> dict[str, WriterConfig]:
        """The models by role."""


@dataclasses.dataclass(frozen=True)
class DocumentsConfig:
    """Documents from a spec; a file for `generate`, and the fields of a corpus of the kind "synthesis".

    Attributes:
        spec: the spec.
        writer: the model that plans and writes.
        planner: a model that plans in its place, down to the ideas; None for the writer.
        critic: a second model that criticises each draft and rewrites it; None for drafts as they are.
        mode: "value" for a spec of values with reasons; "rules" for a list of rules, of which documents show
        compliance.
        plan: how much is planned.
        text: what the texts are like.
        run: how calls are made.
        gates: the settings of the quality gates; None for no gates.
    """

    spec: SpecConfig
    writer: WriterConfig
    planner: WriterConfig | None = None
    critic: WriterConfig | None = None
    mode: Literal["value", "rules"] = "value"
    plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    gates: QualityConfig | None = dataclasses.field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        """Refuses a cap in dollars without the prices of all writers."""
        check_prices(self.run, self.writers)

    @property
    def writers(self) -> dict[str, WriterConfig]:
        """The models by role."""
        others = {"planner": self.planner, "critic": self.critic}
        return {"writer": self.writer, **{role: model for role, model in others.items() if model}}


def check_prices(run: RunConfig, writers: Mapping[str, WriterConfig]) -> None:
    """Refuses a cap in dollars on a model without a price.

    Raises:
        InputError: names the model.
    """
    for role, writer in writers.items():
        if run.max_dollars and run.price(writer.model) is None:
            raise InputError(
                f"run.prices: has no price of {writer.model} ({role}), which run.max_dollars needs; "
                "add {input, output} in dollars for a million tokens"
            )


def _at_least(config: Any, **lowest: float) -> None:
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise InputError(f"{name} = {getattr(config, name)}; it must be at least {least}")
