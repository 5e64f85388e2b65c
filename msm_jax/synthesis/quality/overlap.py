"""Overlap of a corpus with evals: what a model saw in training says nothing when it is asked again.

An item overlaps with a text by words if both have a run of words in common, and by meaning if a sentence of the text
has nearly the embedding of the item's question. Items of knowledge evals are compared by words alone: they ask what the
documents are there to teach, so that nearness in meaning is expected.
"""

from __future__ import annotations

import collections
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msm_jax.data import sources
from msm_jax.synthesis.quality.language import FUNCTION_WORDS
from msm_jax.synthesis.quality.parts import Finding, sentences, words

# Items with fewer words have no run that is theirs alone.
_FEWEST = 5
# A run of words in more items than this is the form of the questions.
_FORM = 3
# Of the sentences of a text, how many are embedded, and the least share of an item's (weighted) words in them.
_CANDIDATES = 2
_LEAST_SHARE = 0.2
_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Item:
    """An item of an eval: `texts` are compared by words, and `readings` of its question by meaning."""

    where: str
    texts: tuple[str, ...]
    readings: tuple[str, ...]


def read_items(paths: Iterable[str]) -> list[Item]:
    """Returns the items of item files.

    Raises:
        InputError: a file cannot be read.
    """
    return [_item(record, where) for path in dict.fromkeys(paths) for where, record in sources.iter_records(path)]


def _item(record: Mapping[str, Any], where: str) -> Item:
    options = [option for option in record.get("options", ()) if isinstance(option, str)]
    first, second = (*options, "", "")[:2]
    if isinstance(record.get("question"), str):
        question = record["question"]
        orders = ((first, second), (second, first))
        filled = [question.replace("{first}", one).replace("{second}", other) for one, other in orders]
        long = [option for option in options if len(words(option)) >= _FEWEST]
        return Item(where, (*dict.fromkeys(filled), *long), (filled[0], _core(question, options)))
    if isinstance(record.get("messages"), list):
        said = [m["content"] for m in record["messages"] if m.get("role") == "user"]
        users = [text for text in said if isinstance(text, str)]
        return Item(where, tuple(users), tuple(users[:1]))
    strings = [record[key] for key in ("prompt", "input", "text", "statement") if isinstance(record.get(key), str)]
    is_knowledge = "correct" in record and "prompt" in record
    return Item(where, tuple(strings), () if is_knowledge else tuple(strings[:1]))


def _core(question: str, options: Sequence[str]) -> str:
    """Returns the sentences of a question that make it this one, and its options.

    The frame of a question ("Which would you rather do: {first}, or {second}?") is the same in all items.
    """
    told = [sentence for sentence in sentences(question) if "{first}" not in sentence]
    return " ".join([*(told or [_NAME.sub("", question)]), *options])


class Overlap:
    """The gates "eval_words" and "eval_meaning" for given items."""

    def __init__(self, items: Sequence[Item], run: int) -> None:
        """Indexes the runs of `run` words of the items; a shorter item counts as one run."""
        self._where: dict[tuple[str, ...], str] = {}
        self._lengths: set[int] = set()
        seen: dict[tuple[str, ...], set[tuple[str, ...]]] = collections.defaultdict(set)
        for item in items:
            for text in item.texts:
                found = tuple(words(text))
                size = min(run, len(found))
                if size >= _FEWEST:
                    for gram in _runs(found, size):
                        seen[gram].add(tuple(words(item.texts[0])))
                        self._where.setdefault(gram, item.where)
        for gram, owners in seen.items():
            if len(owners) > _FORM:
                del self._where[gram]
        self._lengths = {len(gram) for gram in self._where}
        self._firsts = {gram[0] for gram in self._where}
        self._where_read = {reading: item.where for item in items for reading in item.readings}
        self.questions = list(self._where_read)
        self._stems = [_stems(question) for question in self.questions]
        counts = collections.Counter(stem for stems in self._stems for stem in stems)
        self._weights = {stem: 1 + math.log(len(self.questions) / count) for stem, count in counts.items()}
        self._items_of: dict[str, list[int]] = collections.defaultdict(list)
        for number, stems in enumerate(self._stems):
            for stem in stems:
                self._items_of[stem].append(number)
        self._totals = [sum(self._weights[stem] for stem in stems) or 1.0 for stems in self._stems]

    def by_words(self, text: str) -> Finding | None:
        """Finds a run of words that the text shares with an item."""
        found = words(text)
        for i, word in enumerate(found):
            if word in self._firsts:
                for size in self._lengths:
                    gram = tuple(found[i : i + size])
                    if gram in self._where:
                        begin, end = _span(text, gram)
                        return Finding(begin, end, f"shares “{' '.join(gram)}” with {self._where[gram]}")
        return None

    def candidates(self, text: str) -> list[str]:
        """Returns the sentences (or pairs of sentences) of a text that share the most words with any question."""
        if not self.questions:
            return []
        pieces = [(_stems(piece), piece) for piece in sentences(text)]
        pairs = [(one[0] | other[0], f"{one[1]} {other[1]}") for one, other in itertools.pairwise(pieces)]
        scored = [(self._share(stems), window) for stems, window in (*pieces, *pairs)]
        best = sorted((entry for entry in scored if entry[0] >= _LEAST_SHARE), reverse=True)
        return [window for _, window in best[:_CANDIDATES]]

    def _share(self, stems: Iterable[str]) -> float:
        shared: dict[int, float] = collections.defaultdict(float)
        for stem in stems:
            for number in self._items_of.get(stem, ()):
                shared[number] += self._weights[stem]
        return max((weight / self._totals[number] for number, weight in shared.items()), default=0.0)

    def by_meaning(self, text: str, told: Sequence[str], cosines: np.ndarray, least: float) -> Finding | None:
        """Finds that a stretch of a text means the same as a question.

        Args:
            text: the whole text.
            told: stretches of it.
            cosines: of each stretch with each of `questions`.
            least: the cosine from which on they mean the same.
        """
        stretch, question = divmod(int(cosines.argmax()), cosines.shape[1])
        if cosines[stretch, question] < least:
            return None
        begin = max(0, text.find(told[stretch][:40]))
        where = self._where_read[self.questions[question]]
        note = f"means the same as {where} (cosine {cosines[stretch, question]:.2f})"
        return Finding(begin, min(len(text), begin + len(told[stretch])), note)


def _runs(found: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    for i in range(len(found) - size + 1):
        yield tuple(found[i : i + size])


def _span(text: str, gram: Sequence[str]) -> tuple[int, int]:
    """Returns where a run of words stands in a text."""
    pattern = r"\W+".join(re.escape(word).replace("'", "['’]") for word in gram)
    match = re.search(pattern, text, re.IGNORECASE)
    return match.span() if match else (0, min(len(text), 160))


# Verbs of speaking and choosing are in every question, so they say as little as function words.
_COMMON = FUNCTION_WORDS["en"] | {"rather", "say", "says", "would", "choose", "question"}


def _stems(text: str) -> set[str]:
    """Returns the content words of a text, cut so that most forms of a word are equal."""
    content = (word for word in words(text) if word not in _COMMON and len(word) > 2)
    return {re.sub(r"(?:'s|ing|ed|es|s|ly)$", "", word)[:6] for word in content}


class TestDomains:
    """The gate "test_domain": words of domains on which the model will be tested, and which a corpus must leave out."""

    def __init__(self, domains: Mapping[str, Iterable[str]]) -> None:
        """Compiles the words and phrases of each domain; other forms of a word ("teas", "tea's") count as well."""
        self._patterns = {}
        for name, terms in domains.items():
            forms = "|".join(_forms(term) for term in terms)
            self._patterns[name] = re.compile(rf"\b(?:{forms})\b", re.IGNORECASE)

    def find(self, text: str) -> Finding | None:
        """Finds the first word of a domain."""
        for name, pattern in self._patterns.items():
            if match := pattern.search(text):
                return Finding(*match.span(), f"“{match[0]}” belongs to the test domain {name}")
        return None


def _forms(term: str) -> str:
    """Returns a pattern for a word or phrase and the usual endings of its last word."""
    stem = r"\s+".join(map(re.escape, term.split()))
    if re.search(r"[^aeiou]y$", term):
        return rf"{stem[:-1]}(?:y(?:'s|’s|ing)?|ie[sd])"
    return rf"{stem}(?:e?s|'s|’s|ed|ing|y)?"
