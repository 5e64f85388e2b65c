"""Which language a text is in, by its function words and script; needs no model."""

from __future__ import annotations

import re
from importlib import resources

from msm_jax.synthesis.quality.parts import Finding, Part, prose, words


def _read() -> dict[str, frozenset[str]]:
    lines = resources.files("msm_jax.synthesis.quality").joinpath("function_words.txt").read_text("utf-8").splitlines()
    split = (line.split(": ", 1) for line in lines if not line.startswith("#"))
    return {language: frozenset(found.split()) for language, found in split}


# Frequent words that are mostly particular to a language. A text of a language has a fifth to a half of them.
FUNCTION_WORDS = _read()
_OTHER_SCRIPT = re.compile(r"(?:[^\W\d_A-Za-zªºÀ-ʯᴀ-ᶿḀ-ỿ][\W\d_]*){10,}")
_WINDOW = 20
# A stretch of fewer words says too little.
_FEWEST = 12


def find(part: Part, language: str) -> Finding | None:
    """Finds a stretch of a text that is in another language or script."""
    text = prose(part.text)
    if match := _OTHER_SCRIPT.search(text):
        return Finding(*match.span(), "another script")
    for begin, end in _stretches(text):
        piece = text[begin:end]
        found = words(piece)
        if len(found) < _FEWEST:
            continue
        if sum(word in FUNCTION_WORDS[language] for word in found) >= 0.3 * len(found):
            continue
        shares = {name: sum(word in known for word in found) / len(found) for name, known in FUNCTION_WORDS.items()}
        best = max(shares, key=lambda name: (shares[name], name == language))
        if shares[best] >= 0.2 and shares[best] > 1.6 * shares[language]:
            return Finding(begin, end, f"reads like language {best}, not {language}")
    found = words(text)
    own = sum(word in FUNCTION_WORDS[language] for word in found)
    if len(found) >= 40 and own < 0.12 * len(found):
        return Finding(0, min(len(text), 200), f"only {own} of {len(found)} words are function words of {language}")
    return None


def _stretches(text: str) -> list[tuple[int, int]]:
    """Returns (begin, end) of stretches of up to `_WINDOW` words that overlap by half; the end of a line ends one."""
    found = []
    for line in re.finditer(r"[^\n]+", text):
        starts = [line.start() + match.start() for match in re.finditer(r"\S+", line[0])]
        for i in range(0, max(1, len(starts) - _WINDOW // 2), _WINDOW // 2):
            end = starts[i + _WINDOW] if i + _WINDOW < len(starts) else line.end()
            found.append((starts[i] if starts else line.start(), end))
    return found
