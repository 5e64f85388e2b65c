"""The settings of the gates, and what they must know of a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from msm_jax.sampling.model import Model

Kind = Literal["documents", "demonstrations"]
Action = Literal["drop", "report", "off"]


@dataclass(frozen=True)
class QualityConfig:
    """Settings of the gates.

    The defaults of the thresholds were chosen on one half of the planted set in `tests/quality_planted.py` and are
    reported on the other half by `tests/test_synthesis_quality_planted.py`.

    Attributes:
        language: the language of the corpus, a key of `language.FUNCTION_WORDS`.
        min_words: the fewest words of a document, or of a reply of the assistant.
        max_words: the most words of either.
        near_jaccard: two texts are near duplicates from this Jaccard similarity of their sets of three successive words
            on.
        semantic_likeness: two documents mean the same from this likeness on (`duplicates.Meanings` with contrast); it
            is about 0.75 for copies, and about 0.2 for the nearest of other documents.
        question_cosine: the first questions of two demonstrations mean the same from this cosine on; 0.91 is the
            published pipeline's.
        eval_run: a text overlaps with an item of an eval if they share this many successive words.
        eval_cosine: or if a sentence of the text and the item have this cosine.
        embeddings: the directory of the embedding model that `python -m tools.minilm` makes; None turns the gates and
            measures off that need it.
        embed_pieces: how many pieces of about 20 words of a document are embedded, from its beginning; the time for a
            large corpus goes with them.
        evals: data paths of item files that no text may overlap with.
        test_domains: {name: words and phrases} of domains on which the model will be tested and which the corpus must
            therefore leave out.
        value_terms: words that name the value of the spec, for the share of documents that attribute behaviour to it;
            () takes the most frequent content words of the spec.
        allowed: names of models and makers, and identifiers, that may occur although they are not the assistant's or
            the spec's own.
        actions: {reason code: action} where it differs from the default of a gate: "drop" removes a row, "report" only
            counts it, "off" does not look.
        stop: {reason code: share}; a corpus is stopped if more than this share of its rows have the reason.
    """

    language: str = "en"
    min_words: int = 40
    max_words: int = 6_000
    near_jaccard: float = 0.6
    semantic_likeness: float = 0.38
    question_cosine: float = 0.91
    eval_run: int = 8
    eval_cosine: float = 0.61
    embeddings: str | None = ".cache/minilm"
    embed_pieces: int = 16
    evals: tuple[str, ...] = ("data/evals/*.jsonl",)
    test_domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    value_terms: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    actions: Mapping[str, Action] = field(default_factory=dict)
    stop: Mapping[str, float] = field(
        default_factory=lambda: {"identity": 0.1, "provider": 0.1, "eval_words": 0.0, "eval_meaning": 0.0}
    )


@dataclass(frozen=True)
class Context:
    """What the gates must know of a corpus.

    Attributes:
        kind: documents or demonstrations.
        name: how the page calls the corpus.
        assistant: the name of the assistant that the corpus is about; "" if it has none.
        provider: the name of its maker; "" if it has none.
        spec_text: the text of the spec; names of models and makers that occur in it may occur in the corpus.
        principle_ids: the identifiers of the spec's principles, such as "SP1"; None if they are not known.
        evals: data paths of item files of an experiment, beside those of the config.
        reader: the base model whose perplexity is measured, and what counts a text's tokens.
    """

    kind: Kind
    name: str = "corpus"
    assistant: str = ""
    provider: str = ""
    spec_text: str = ""
    principle_ids: frozenset[str] | None = None
    evals: tuple[str, ...] = ()
    reader: Reader | None = None


class Encoder(Protocol):
    """A tokenizer, of which only the number of tokens of a text is used."""

    def encode(self, text: str) -> Any:
        """Returns the ids of a text."""


@dataclass(frozen=True)
class Reader:
    """A model that reads the corpus.

    Attributes:
        model: has the capability "score_text".
        tokenizer: its tokenizer, whose `encode` counts tokens.
        max_documents: how many rows are read, spread over the corpus.
        max_characters: how much of each is read.
    """

    model: Model
    tokenizer: Encoder
    max_documents: int = 200
    max_characters: int = 4_000
