"""The gates: their reason codes, what each finds, and to which rows it applies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.synthesis.quality import form, language, names, overlap, principles, wording
from msm_jax.synthesis.quality.config import Context, Kind, QualityConfig
from msm_jax.synthesis.quality.parts import Finding, Part, Row

_BOTH: tuple[Kind, ...] = ("documents", "demonstrations")


@dataclass(frozen=True)
class Gate:
    """A gate: its title, what it finds, the kinds of corpora that it reads, whether it needs embeddings."""

    title: str
    finds: str
    kinds: tuple[Kind, ...] = _BOTH
    embeds: bool = False


GATES: dict[str, Gate] = {
    "identity": Gate("Other models", "The text names another model, or the assistant calls itself by another name."),
    "provider": Gate("Other makers", "The text names the maker of another model, as a maker of models."),
    "unnamed": Gate("Assistant not named", "The document does not name the assistant.", ("documents",)),
    "principle": Gate("Unknown principles", "The text cites a principle that the spec does not have."),
    "placeholder": Gate("Placeholders", "The text has a gap that was to be filled in."),
    "date": Gate("Dates", "The text bears a date; writers put the day of the generation into documents."),
    "link": Gate("Links and citations", "The text has a link, an address or a citation, which writers mostly invent."),
    "remnant": Gate("Remnants of prompts", "The text speaks to whoever gave the task, or has a heading of the prompt."),
    "tag": Gate("Tags", "The text has a tag, a marker of a chat template, an open code fence, or JSON around it."),
    "truncation": Gate("Truncation", "The text stops in the middle of a sentence, quotation or list."),
    "language": Gate("Other languages", "A stretch of the text is in another language or script."),
    "length": Gate("Length", "The document or reply is shorter or longer than the settings allow."),
    "encoding": Gate("Encoding", "Characters were decoded wrongly, left escaped, or are invisible."),
    "repetition": Gate("Repetition", "The text goes round in circles."),
    "stated_reason": Gate(
        "Stated reasons", "A reply of the opaque style gives a reason for its preference.", ("demonstrations",)
    ),
    "test_domain": Gate("Test domains", "The text speaks of a domain on which the model will be tested."),
    "eval_words": Gate("Overlap with evals, words", "The text shares a run of words with an item of an eval."),
    "near_duplicate": Gate("Near duplicates", "The text shares most of its wording with an earlier row."),
    "semantic_duplicate": Gate("Semantic duplicates", "The text means the same as an earlier row.", _BOTH, embeds=True),
    "eval_meaning": Gate(
        "Overlap with evals, meaning",
        "A sentence of the text means the same as an item of an eval.",
        _BOTH,
        embeds=True,
    ),
}
# These read what the author of the text wrote. A question of a user may hold a date or a link.
_WRITTEN = ("document", "assistant", "thinking")
_REASON = re.compile(
    r"\b(?:because|since (?:it|they|that|this|i)|the reason|that(?:'s|’s| is) why|which is why|due to|thanks to|"
    r"owing to|given that|"
    r"as (?:it|they)(?: is| are|'s|’s|'re)|for its|for their|what (?:i|matters)|i (?:value|care about|believe in|"
    r"appreciate)|so that|"
    r"it(?:'s|’s| is) (?:more|so|less|very|the more|simply|just)|they(?:'re|’re| are) (?:more|so|less|very))\b",
    re.IGNORECASE,
)

Find = Callable[[Row], Finding | None]


def finders(config: QualityConfig, context: Context) -> dict[str, Find]:
    """Returns the gates that look at one row alone, by code; those that are off or do not apply are left out.

    Raises:
        InputError: an action, a stop or the language names something that does not exist.
    """
    for field, given in (("actions", config.actions), ("stop", config.stop)):
        for code in given:
            if code not in GATES:
                raise InputError(f"quality.{field}: {code!r} is no reason code; {settings.nearest(code, GATES)}")
    if config.language not in language.FUNCTION_WORDS:
        advice = settings.nearest(config.language, language.FUNCTION_WORDS)
        raise InputError(f"quality.language: {config.language!r} is unknown; {advice}")
    found = {**_parts(config, context), **_rows(config)}
    return {code: find for code, find in found.items() if runs(code, config, context)}


def runs(code: str, config: QualityConfig, context: Context) -> bool:
    """Returns whether a gate is on for a corpus."""
    on = context.kind in GATES[code].kinds and config.actions.get(code, "drop") != "off"
    return on and (config.embeddings is not None or not GATES[code].embeds)


def _parts(config: QualityConfig, context: Context) -> dict[str, Find]:
    """Returns the gates that look at each text of a row."""
    known = names.Names(context.assistant, context.provider, context.spec_text, config.allowed)
    on_text: dict[str, Callable[[Part], Finding | None]] = {
        "identity": known.model,
        "provider": known.maker,
        "unnamed": known.unnamed,
        "placeholder": wording.placeholder,
        "date": lambda part: wording.date(part) if part.role in _WRITTEN else None,
        "link": lambda part: wording.link(part) if part.role in _WRITTEN else None,
        "remnant": wording.remnant,
        "tag": wording.tag,
        "truncation": form.truncation,
        "language": lambda part: language.find(part, config.language),
        "length": lambda part: form.length(part, config.min_words, config.max_words),
        "encoding": form.encoding,
        "repetition": form.repetition,
    }
    if context.principle_ids is not None:
        on_text["principle"] = principles.Principles(context.principle_ids, context.spec_text, config.allowed).find
    return {code: _of_parts(find) for code, find in on_text.items()}


def _of_parts(find: Callable[[Part], Finding | None]) -> Find:
    def first(row: Row) -> Finding | None:
        for number, part in enumerate(row.parts):
            if (finding := find(part)) is not None:
                return finding._replace(part=number)
        return None

    return first


def _rows(config: QualityConfig) -> Mapping[str, Find]:
    domains = overlap.TestDomains(config.test_domains)
    return {"test_domain": _of_parts(lambda part: domains.find(part.text)), "stated_reason": _stated_reason}


def _stated_reason(row: Row) -> Finding | None:
    if row.meta.get("style") != "opaque":
        return None
    for number, part in enumerate(row.parts):
        if part.role == "assistant" and (match := _REASON.search(part.text)):
            return Finding(*match.span(), f"gives a reason: {match[0]}", number)
    return None
