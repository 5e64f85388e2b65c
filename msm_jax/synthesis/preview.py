"""What a run will take, before its first call: calls, tokens, dollars and time of each stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table

from msm_jax.specs.prose import Prose, units
from msm_jax.synthesis import plan, prompts
from msm_jax.synthesis.asking import tokens
from msm_jax.synthesis.config import DocumentsConfig, RunConfig, Settings

# What the replies of a list stage hold: tokens of an element.
ELEMENT_TOKENS = {"domains": 50, "subdomains": 250, "assertions": 70, "document_types": 40, "ideas": 70}
CRITIQUE_TOKENS = 250
# Tokens of an English word, the usual rule of thumb of 4 tokens for 3 words.
TOKENS_PER_WORD = 4 / 3
_SECONDS_TO_FIRST_TOKEN = 1.0


@dataclass(frozen=True)
class Stage:
    """A stage of a run: calls, tokens in and out of all of them together, who is asked, and the price (None:
    unknown)."""

    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    model: str
    dollars: float | None


@dataclass(frozen=True)
class Preview:
    """The stages of a run in order; how many documents each corpus has, their tokens, and the seconds of the run."""

    stages: tuple[Stage, ...]
    documents: int
    text_tokens: int
    seconds: float

    @property
    def dollars(self) -> float | None:
        """The price of all stages, None where that of one is not known."""
        prices = [stage.dollars for stage in self.stages]
        return None if None in prices else sum(price for price in prices if price is not None)


def of(config: DocumentsConfig, spec: Prose) -> Preview:
    """Returns what a run takes if the writer finds as many domains, subdomains and assertions as it is asked for, and
    every first reply is usable."""
    sizes, text, parts = config.plan, config.text, len(units(spec, config.spec.words))
    if config.mode == "rules" and spec.principles:
        groups, assertions, lists = len(spec.principles), 1, {}
    else:
        groups, assertions = parts * sizes.domains * sizes.subdomains, sizes.assertions
        lists = {"domains": parts, "subdomains": parts * sizes.domains, "assertions": groups}
    documents = plan.documents(assertions, sizes)
    of_type = -(-documents // min(sizes.document_types, documents))
    idea_calls = groups * min(sizes.document_types, documents) * -(-of_type // sizes.ideas_per_call)
    calls = {**lists, "document_types": groups, "ideas": idea_calls}
    elements = {
        "domains": sizes.domains, "subdomains": sizes.subdomains, "assertions": sizes.assertions,
        "document_types": sizes.document_types, "ideas": -(-groups * documents // idea_calls),
    }  # fmt: skip
    part = tokens(spec.text) // parts
    holds = {
        "domains": part, "subdomains": part, "assertions": part // 4 + 100,
        "document_types": 150, "ideas": part // 4 + 500,
    }  # fmt: skip
    texts = groups * documents * len(text.corpora)
    written = round(text.words * TOKENS_PER_WORD)
    planner = "planner" if config.planner else "writer"
    stages = [
        stage(config, name, count, holds[name], elements[name] * ELEMENT_TOKENS[name], planner)
        for name, count in calls.items()
    ]
    stages.append(stage(config, "document", texts, part + 400, written + text.plan_tokens // 2))
    if config.critic:
        shown = part + written + 300
        stages.append(stage(config, "critique", texts, shown, CRITIQUE_TOKENS, "critic"))
        stages.append(stage(config, "rewrite", texts, shown + CRITIQUE_TOKENS, written, "critic"))
    return Preview(tuple(stages), groups * documents, texts * written, seconds(stages, config.run))


def seconds(stages: Sequence[Stage], run: RunConfig) -> float:
    """Returns how long the calls of all stages take, one stage after the other."""
    return sum(
        -(-each.calls // run.concurrency)
        * (_SECONDS_TO_FIRST_TOKEN + each.output_tokens / each.calls / run.tokens_per_second)
        for each in stages
    )


def stage(config: Settings, name: str, calls: int, values: int, given: int, role: str = "writer") -> Stage:
    """Returns a stage, given the tokens of the values that fill a prompt, and of a reply."""
    taken = tokens(prompts.load(name).text) + values
    model = config.writers[role].model
    price = config.run.price(model)
    dollars = price.dollars(calls * taken, calls * given) if price else None
    return Stage(name, calls, calls * taken, calls * given, model, dollars)


def table(config: DocumentsConfig, spec: Prose) -> Group:
    """Returns the preview of documents for the terminal."""
    found = of(config, spec)
    made = (
        f"{found.documents:,} documents in each of {', '.join(config.text.corpora)}; "
        f"about {found.text_tokens:,} tokens of text"
    )
    return shown(found, config, spec, made)


def shown(found: Preview, config: Settings, spec: Prose, made: str) -> Group:
    """Returns a preview for the terminal; `made` says what the run makes."""
    rows = Table(box=None, pad_edge=False)
    for name in ("stage", "calls", "tokens in", "tokens out", "price", "model"):
        rows.add_column(name, justify="left" if name in ("stage", "model") else "right")
    for each in found.stages:
        price = "?" if each.dollars is None else f"${each.dollars:,.2f}"
        rows.add_row(
            each.name, f"{each.calls:,}", f"{each.input_tokens:,}", f"{each.output_tokens:,}", price, each.model
        )
    total = found.dollars
    price = "unknown; set run.prices" if total is None else f"about ${total:,.2f}"
    lines = [
        f"{config.spec.path}: {spec.words:,} words, {len(units(spec, config.spec.words))} parts, "
        f"{len(spec.principles)} numbered principles",
        made,
        f"price {price}; about {_duration(found.seconds)} with {config.run.concurrency} calls at a time",
        "Replies that cannot be used are asked for again, which comes on top.",
    ]
    return Group(*lines[:2], rows, *lines[2:])


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
