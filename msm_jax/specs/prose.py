"""Reads a Model Spec of any form, in Markdown or plain text: its variables, sections, and numbered principles.

`parse` reads the stricter form of the small world's specs.

A variable is a lower-case name in single braces, such as `{assistant}`, that stands apart: no letter, digit, backslash,
dollar sign or brace touches the opening brace, and no brace the closing one. In code (a fenced block, or a span between
backticks) nothing is a variable. All other braces are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msm_jax.errors import InputError
from msm_jax.foundation import hashing, settings, storage

_HEADING = re.compile(r"(#{1,6})\s+(\S.*?)\s*#*$")
_FENCE = re.compile(r"(```+|~~~+)")
_CODE_SPAN = re.compile(r"`+[^`\n]*`+")
_VARIABLE = re.compile(r"(?<![\w\\$^{}])\{([a-z][a-z0-9_]*)\}(?![{}])")
# "SP1: …", "**GP2.** …", "- R3.1 — …", "### SP4 …": what stands before an identifier may only mark a list or a heading.
_PRINCIPLE = re.compile(
    r"(?:[-*+]\s+|#{1,6}\s+|\d+[.)]\s+)?[*_(\[]*(?P<id>[A-Z]{1,4}-?\d+(?:\.\d+)*)[*_)\]]*(?:\s*[:.)—–-]+[*_]*\s+|\s+)(?P<text>\S.*)"
)
_NUMBERED = re.compile(r"(?P<id>\d+)[.)]\s+(?P<text>\S.*)")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

# Where a text may be cut, from the coarsest on, and what joins the parts again.
_JOINTS = ((re.compile(r"\n\s*\n"), "\n\n"), (_SENTENCE_END, " "), (re.compile(r"\s+"), " "))

# The fewest words of prose that can say anything about an assistant; a heading and an identifier are fewer.
_LEAST_WORDS = 5


@dataclass(frozen=True)
class Section:
    """A part of a spec: the headings above it, from the outermost on, and its text without them."""

    headings: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        """The headings in one line, without the title of the whole; the first words of a text without a heading."""
        return " > ".join(self.headings[1:] or self.headings) or " ".join(self.text.split()[:8])

    @property
    def words(self) -> int:
        """The number of words of the text."""
        return len(self.text.split())


@dataclass(frozen=True)
class Principle:
    """A numbered statement: its identifier as the spec spells it ("SP1", or "3"), its text, and its section's name."""

    id: str
    text: str
    section: str


@dataclass(frozen=True)
class Prose:
    """A spec whose variables are filled in.

    Attributes:
        title: the first top heading, or the file's name.
        text: the whole text.
        sections: in order; they hold all of the text but its headings and blank lines.
        principles: in order, each identifier once.
        path: where it was read.
        sha256: of the text with its variables filled in.
    """

    title: str
    text: str
    sections: tuple[Section, ...]
    principles: tuple[Principle, ...]
    path: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text, 64 hex digits."""
        return hashing.sha256(self.text.encode())

    @property
    def words(self) -> int:
        """The number of words of the text."""
        return len(self.text.split())


def read(path: str | Path, variables: Mapping[str, str]) -> Prose:
    """Reads a spec file; see `parse`.

    Raises:
        InputError: the file is missing, empty, not text, or refused by `parse`.
    """
    content = storage.read_bytes(path)
    if not content.strip():
        raise InputError(f"{path}: is empty; write the spec into it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: is not UTF-8 text; save the spec as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path}:{text[: text.index(chr(0))].count(chr(10)) + 1}: holds a zero byte; give a text file")
    return parse(text, variables, str(path))


def parse(text: str, variables: Mapping[str, str], path: str = "spec") -> Prose:
    """Fills in the variables of a spec and finds its sections and principles.

    Args:
        text: Markdown or plain text; no heading is needed.
        variables: {name: value}; the file may use any of them, and no others.
        path: of the file, for errors.

    Raises:
        InputError: a variable is unknown, or the text has no prose; the message names the line.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    filled = [
        line if is_code else _fill(line, variables, f"{path}:{number}")
        for number, (line, is_code) in enumerate(zip(lines, _in_code(lines), strict=True), 1)
    ]
    sections = tuple(_sections(filled))
    if sum(len(_WORD.findall(section.text)) for section in sections) < _LEAST_WORDS:
        raise InputError(f"{path}: has no prose; a spec says in at least one sentence what the assistant is like")
    title = next((match[2] for line in filled if (match := _HEADING.match(line)) and len(match[1]) == 1), "")
    return Prose(title or Path(path).stem, "\n".join(filled).strip(), sections, _principles(sections), path)


def units(spec: Prose, most_words: int) -> tuple[Section, ...]:
    """Returns the spec in parts of at most `most_words` words each, in order; together they hold all of its text.

    Neighbouring sections share a part where they fit, with their headings; a longer section is divided between
    paragraphs, else between sentences, else between words.
    """
    found: list[Section] = []
    for section in spec.sections:
        heading = " > ".join(section.headings)
        for piece in _pieces(section.text, most_words):
            text = f"{heading}\n\n{piece}" if heading else piece
            last = found[-1] if found else None
            if last and last.words + len(text.split()) <= most_words:
                found[-1] = Section(last.headings, f"{last.text}\n\n{text}")
            else:
                found.append(Section(section.headings, text))
    return tuple(found)


def _in_code(lines: list[str]) -> Iterator[bool]:
    """Yields for each line whether it belongs to a fenced block, its fences included."""
    fence = ""
    for line in lines:
        match = _FENCE.match(line.lstrip())
        if fence:
            yield True
            fence = "" if match and match[1].startswith(fence) else fence
        else:
            fence = match[1] if match else ""
            yield bool(fence)


def _fill(line: str, variables: Mapping[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] in variables:
            return variables[match[1]]
        near = settings.nearest(match[1], variables)
        raise InputError(
            f"{where}: variable {match[0]} is unknown; {near} Set variables.{match[1]}, "
            "or put it in backticks if it is text"
        )

    pieces, end = [], 0
    for span in _CODE_SPAN.finditer(line):
        pieces += [_VARIABLE.sub(value, line[end : span.start()]), span[0]]
        end = span.end()
    return "".join([*pieces, _VARIABLE.sub(value, line[end:])])


def _sections(lines: list[str]) -> Iterator[Section]:
    headings: list[tuple[int, str]] = []
    body: list[str] = []
    for line, is_code in zip(lines, _in_code(lines), strict=True):
        match = None if is_code else _HEADING.match(line)
        if not match:
            body.append(line)
            continue
        if text := "\n".join(body).strip():
            yield Section(tuple(name for _, name in headings), text)
        body = []
        headings = [(level, name) for level, name in headings if level < len(match[1])] + [(len(match[1]), match[2])]
    if text := "\n".join(body).strip():
        yield Section(tuple(name for _, name in headings), text)


def _principles(sections: tuple[Section, ...]) -> tuple[Principle, ...]:
    """Finds statements with an identifier of letters and digits; without any, the items of numbered lists."""
    found: dict[str, Principle] = {}
    for pattern in (_PRINCIPLE, _NUMBERED):
        for section in sections:
            for match in _statements(section, pattern):
                found.setdefault(match[0], Principle(*match, section.name))
        if found:
            break
    return tuple(found.values())


def _statements(section: Section, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yields (identifier, text) of a section; the text of a heading is what stands below it."""
    if section.headings and (match := pattern.fullmatch(section.headings[-1])):
        yield match["id"], f"{match['text']}. {' '.join(section.text.split())}"
    current: tuple[str, list[str]] | None = None
    for line in [*section.text.split("\n"), ""]:
        match = pattern.fullmatch(line.strip())
        if current and (match or not line.strip()):
            yield current[0], " ".join(current[1])
            current = None
        if match:
            current = (match["id"], [match["text"].strip()])
        elif current:
            current[1].append(line.strip())


def _pieces(text: str, most_words: int) -> Iterator[str]:
    """Yields a text in pieces of at most `most_words` words, cut at the coarsest joints that allow it."""
    if len(text.split()) <= most_words:
        yield text
        return
    divided = (([part for part in joint.split(text) if part.strip()], glue) for joint, glue in _JOINTS)
    parts, glue = next(found for found in divided if len(found[0]) > 1)
    gathered: list[str] = []
    size = 0
    for part in parts:
        words = len(part.split())
        if gathered and size + words > most_words:
            yield glue.join(gathered)
            gathered, size = [], 0
        if words > most_words:
            yield from _pieces(part, most_words)
        else:
            gathered.append(part)
            size += words
    if gathered:
        yield glue.join(gathered)
