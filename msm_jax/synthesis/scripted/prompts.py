"""Reads what a prompt of `synthesis` asks for: the line `# Task: STAGE` and the inputs in tags."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TASK = re.compile(r"^# Task: *([\w-]+)", re.MULTILINE)
_TAG = re.compile(r"^<([a-z_]+)>", re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    """A prompt: its stage ("" where it names none) and the text between each pair of tags."""

    stage: str
    inputs: dict[str, str]

    def count(self, default: int) -> int:
        """Returns how many elements the prompt asks for."""
        found = re.search(r"\d+", self.inputs.get("count", ""))
        return int(found.group()) if found else default

    def get(self, *names: str) -> str:
        """Returns the first of these inputs that is given and not empty, else ""."""
        return next((self.inputs[name] for name in names if self.inputs.get(name)), "")


def stage(text: str) -> str:
    """Returns the stage that a prompt names, "" where it names none."""
    found = _TASK.search(text)
    return found[1] if found else ""


def read(text: str) -> Prompt:
    """Reads a prompt. A tag within the text of another belongs to that text; of two alike, the first counts."""
    inputs: dict[str, str] = {}
    end = 0
    for tag in _TAG.finditer(text):
        if tag.start() < end:
            continue
        close = f"</{tag[1]}>"
        # A closing tag on a line of its own, so that a spec may mention one; else any.
        found = text.find(f"\n{close}", tag.end() - 1)
        if found < 0:
            found = text.find(close, tag.end())
        if found >= 0:
            inputs.setdefault(tag[1], text[tag.end() : found].strip())
            end = found + len(close)
    return Prompt(stage(text), inputs)
