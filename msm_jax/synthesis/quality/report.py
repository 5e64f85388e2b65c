"""The report of the gates, as plain data: the content of quality.json, which the page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from msm_jax.foundation import settings
from msm_jax.synthesis.quality import diversity, gates
from msm_jax.synthesis.quality.attribution import Attribution
from msm_jax.synthesis.quality.config import Context, QualityConfig
from msm_jax.synthesis.quality.perplexity import perplexities

if TYPE_CHECKING:
    from msm_jax.synthesis.quality.check import Tally

# Of the corpora that were released with arXiv 2605.02087, and of FineWeb, as a public replication of that paper
# measured them with an instrument of its own.
_SOURCE = "a public replication of arXiv 2605.02087, with another instrument"
_PUBLISHED: dict[str, list[tuple[str, str]]] = {
    "self_bleu": [("released documents on cheese", "0.39 to 0.40"), ("FineWeb", "0.07 to 0.08")],
    "dispersion": [("released documents on cheese", "0.33 to 0.35"), ("FineWeb", "0.95")],
    "attributes": [("released documents on cheese: value given as the reason", "65 to 80 %")],
    "mentions": [("released documents on cheese: value asserted at all", "96 to 98 %")],
    "perplexity_p50": [("released documents on cheese", "5.6 to 6.3")],
}


def build(
    config: QualityConfig, context: Context, tally: Tally, kept: int, value: Attribution
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the report, and a sentence for each reason why the corpus is stopped.

    The report has the fields "format" (1), "name", "kind", "assistant", "provider", "rows", "kept", "words", "stopped"
    (sentences), "notices" (what was not looked at), "dropped" (what did not come as far as the gates; filled in by
    `gating`), "gates", "measures" and "settings". A gate has "code", "title",
    "finds", "action", "rows" (with the finding), "share", "stop_above" (a share, or None) and "examples" ("id",
    "excerpt", "note"). A measure has "code", "title", "value" (None if it was not measured), "means" and "published"
    ("what", "value", "source").
    """
    described = []
    stopped = []
    for code, gate in gates.GATES.items():
        if not gates.runs(code, config, context) or (code == "principle" and context.principle_ids is None):
            continue
        count = tally.counts.get(code, 0)
        share = count / tally.rows if tally.rows else 0.0
        most = config.stop.get(code)
        if most is not None and share > most:
            allowed = f"more than {100 * most:g} % stop the corpus" if most else "a single one stops the corpus"
            stopped.append(f"{gate.title}: {count:,} of {tally.rows:,} rows ({100 * share:.1f} %); {allowed}")
        described.append(
            {
                **{"code": code, "title": gate.title, "finds": gate.finds, "action": config.actions.get(code, "drop")},
                **{"rows": count, "share": share, "stop_above": most, "examples": tally.examples.get(code, [])},
            }
        )
    if not kept:
        stopped.append(f"No row of {tally.rows:,} is left")
    fields = ("kind", "name", "assistant", "provider")
    built = {
        "format": 1,
        **{name: getattr(context, name) for name in fields},
        **{"rows": tally.rows, "kept": kept, "words": tally.words, "stopped": stopped},
        "notices": _notices(config, context),
        "dropped": [],
        "gates": described,
        "measures": _measures(config, context, tally, kept, value),
        "settings": settings.to_json(config),
    }
    return built, tuple(stopped)


def _notices(config: QualityConfig, context: Context) -> list[str]:
    found = []
    if config.embeddings is None:
        found.append("Nothing was compared by meaning; run python -m tools.minilm and set embeddings to its directory.")
    if not (config.evals or context.evals):
        found.append("No eval was named, so overlap with evals was not looked for.")
    if not config.test_domains:
        found.append("No test domains were named, so their leak was not looked for.")
    if context.principle_ids is None:
        found.append("The identifiers of the spec's principles are not known, so they were not checked.")
    if not context.assistant:
        found.append("The assistant has no name here, so names of all models count as foreign.")
    return found


def _measures(
    config: QualityConfig, context: Context, tally: Tally, kept: int, value: Attribution
) -> list[dict[str, Any]]:
    terms = ", ".join(value.terms) or "none"
    stances = {name: tally.stances.get(name, 0) / kept if kept else None for name in ("attributes", "mentions")}
    asserted = None if stances["attributes"] is None else stances["attributes"] + (stances["mentions"] or 0.0)
    measures = [
        _measure(
            *("self_bleu", "Self-BLEU", diversity.self_bleu(tally.sample.entries)),
            f"How much rows share wording, 0 to 1: BLEU-4 of a row against nine others, over "
            f"{len(tally.sample.entries)} rows.",
        ),
        _measure(
            *("dispersion", "Embedding dispersion", tally.dispersion.value()),
            "How far apart rows are in meaning: the mean of 1 - cosine over all pairs. Near 0, all mean the same."
            + ("" if context.kind == "documents" else " Of demonstrations, the questions are compared."),
        ),
    ]
    if context.kind == "documents":
        measures += [
            _measure(
                *("attributes", "Attribute to the value", stances["attributes"]),
                f"The share of rows with a sentence that gives the value as the cause of a behaviour. The value's "
                f"words: {terms}.",
            ),
            _measure(
                *("mentions", "Name the value", asserted),
                "The share of rows that name the value at all, whether or not they attribute behaviour to it.",
            ),
        ]
    if context.reader:
        measures += _perplexity(context, tally.texts.entries)
    return measures


def _perplexity(context: Context, texts: Sequence[str]) -> list[dict[str, Any]]:
    assert context.reader is not None
    found = perplexities(context.reader, texts) if texts else []
    name = context.reader.model.name
    return [
        _measure(
            *(
                f"perplexity_p{share}",
                f"Perplexity, {_WORDS[share]}",
                float(np.percentile(found, share)) if found else None,
            ),
            f"The perplexity per token of {len(found)} rows under {name}.",
        )
        for share in _WORDS
    ]


_WORDS = {10: "lowest tenth", 50: "median", 90: "highest tenth"}


def _measure(code: str, title: str, value: float | None, means: str) -> dict[str, Any]:
    published = [{"what": what, "value": text, "source": _SOURCE} for what, text in _PUBLISHED.get(code, ())]
    return {"code": code, "title": title, "value": value, "means": means, "published": published}
