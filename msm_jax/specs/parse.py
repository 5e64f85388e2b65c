"""Reads a Model Spec from Markdown.

A spec is a title (`# …`) and sections (`## …`) of prose, whose list items state principles. Whoever uses the spec
replaces names in braces, such as `{assistant}`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from msm_jax.errors import InputError

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Section:
    """A section: the sentences of its prose and its list items, both in order, with line breaks removed."""

    title: str
    sentences: tuple[str, ...]
    items: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """A Model Spec; `text` is the whole file."""

    title: str
    sections: tuple[Section, ...]
    text: str
    path: str

    def section(self, title: str) -> Section:
        """Returns the section with a title.

        Raises:
            InputError: the spec has no such section.
        """
        for section in self.sections:
            if section.title == title:
                return section
        have = ", ".join(f'"{s.title}"' for s in self.sections)
        raise InputError(f'{self.path}: no section "## {title}"; its sections are {have}')


def parse(text: str, path: str = "spec") -> Spec:
    """Parses the text of a spec.

    Raises:
        InputError: the text has no title, a second title, text before the title, or no section; names the line.
    """
    title = ""
    sections: list[tuple[str, list[str], list[str]]] = []
    paragraph: list[str] = []

    def close() -> None:
        if paragraph and sections:
            sections[-1][1].extend(_SENTENCE_END.split(" ".join(paragraph)))
        paragraph.clear()

    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("## "):
            close()
            sections.append((line[3:].strip(), [], []))
        elif line.startswith("# "):
            if title:
                raise InputError(f"{path}:{number}: a second title; a spec has one line that starts with '# '")
            title = line[2:].strip()
        elif not title and line:
            raise InputError(f"{path}:{number}: text before the title; start the spec with '# TITLE'")
        elif line.startswith("- "):
            close()
            if not sections:
                raise InputError(f"{path}:{number}: a list item before the first section; put it under '## SECTION'")
            sections[-1][2].append(line[2:].strip())
        elif not line:
            close()
        else:
            paragraph.append(line)
    close()
    if not title or not sections:
        missing = "no sections" if title else "no title"
        raise InputError(f"{path}: {missing}; a spec has '# TITLE' and '## SECTION' lines")
    return Spec(title, tuple(Section(name, tuple(s), tuple(i)) for name, s, i in sections), text, path)


def read(path: str | Path) -> Spec:
    """Parses a spec file.

    Raises:
        InputError: the file cannot be read, or `parse` refuses it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}); check the path") from error
    return parse(text, str(path))
