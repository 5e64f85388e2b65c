"""The prompts: one file a stage, `STAGE.md`. A change of a file changes its hash, which every row carries.

`{{name}}` in a file stands for a value, and is replaced as it stands: braces and tags in a value stay what they are.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from msm_jax.foundation import hashing

_NAME = re.compile(r"\{\{([a-z_]+)\}\}")


@dataclass(frozen=True)
class Template:
    """The text of a prompt file."""

    name: str
    text: str

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, 64 hex digits."""
        return hashing.sha256(self.text.encode())

    @property
    def names(self) -> frozenset[str]:
        """The names that `fill` replaces."""
        return frozenset(_NAME.findall(self.text))

    def fill(self, **values: str | int) -> str:
        """Returns the prompt with every name replaced by its value.

        Raises:
            KeyError: a name in the file has no value.
        """
        return _NAME.sub(lambda match: str(values[match[1]]).strip(), self.text)


@functools.cache
def load(name: str) -> Template:
    """Returns the prompt of a stage."""
    return Template(name, Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8"))


def styles() -> dict[str, str]:
    """Returns {style of teaching: what the prompt asks for}, from `styles.md`."""
    return entries("styles")


def corpora() -> dict[str, str]:
    """Returns {corpus: what the prompt asks for}, from `corpora.md`: the documents, and their controls."""
    return entries("corpora")


def modes() -> dict[str, str]:
    """Returns {mode: what the prompt of a document asks for}, from `modes.md`."""
    return entries("modes")


def entries(name: str) -> dict[str, str]:
    """Returns {entry: its text} of a prompt file that consists of entries, `## NAME` and lines below."""
    parts = re.split(r"^## (\w+)\n", load(name).text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (text.strip() for text in parts[1::2]), strict=True))
