"""The quality gates over long documents: CPU time for each, and memory while their number grows.

    python -m tools.minilm
    python benchmarks/gates.py                       # 10,000 documents of 2,350 words, as in the 41M plan
    python benchmarks/gates.py --documents=1000 --words=600

The documents consist of sentences of the scripted writer in random order, in each of which two words are replaced, so
that no two documents are alike. Memory is that of this process, read from /proc while the gates read the rows.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from benchmarks import record
from msm_jax import cli
from msm_jax.errors import WorkError
from msm_jax.specs import prose
from msm_jax.synthesis import parsing
from msm_jax.synthesis.quality import check, parts
from msm_jax.synthesis.quality.config import Context, QualityConfig
from msm_jax.synthesis.scripted import grammar

SPEC = Path(__file__).resolve().parent.parent / "data" / "specs" / "oversight_philosophy.md"
# Memory may grow by what a row leaves behind: `check.check` names 2 KB and 14 KB; SQLite, sets and lists come on top.
MOST_KB_PER_ROW = 64

_DOCUMENTS = flags.DEFINE_integer("documents", 10_000, "How many documents the gates read.")
_WORDS = flags.DEFINE_integer("words", 2_350, "Words of a document.")
_EMBEDDINGS = flags.DEFINE_string("embeddings", ".cache/minilm", "The embedding model; empty for none.")


def sentences(spec: str) -> list[str]:
    """Returns the sentences of 300 documents of the scripted writer about a spec."""
    found: list[str] = []
    for number in range(300):
        task = f"# Task: document\n<assistant>\nIris\n</assistant>\n<spec>\n{spec}\n</spec>\n"
        said = parts.sentences(parsing.content(grammar.reply(task, number)))
        found += [each for each in said if each[-1] in ".!?" and len(each.split()) > 3]
    return list(dict.fromkeys(found))


def documents(count: int, words: int, pool: list[str]) -> Iterator[dict[str, Any]]:
    """Yields documents of about so many words in paragraphs of five sentences, always the same ones."""
    draw = random.Random(0)
    vocabulary = sorted({word for each in pool for word in each.split() if word.isalpha() and len(word) > 4})
    for number in range(count):
        chosen: list[str] = []
        length = 0
        while length < words:
            sentence = draw.choice(pool).split()
            for place in draw.sample(range(1, len(sentence) - 1), 2):
                sentence[place] = draw.choice(vocabulary)
            chosen.append(" ".join(sentence))
            length += len(sentence)
        paragraphs = [" ".join(chosen[i : i + 5]) for i in range(0, len(chosen), 5)]
        yield {"text": "\n\n".join(["Iris", *paragraphs]), "meta": {"id": f"n{number:05d}"}}


class Watched:
    """Rows on their way to the gates.

    Attributes:
        making: CPU seconds that making the rows took.
        memory: resident MB of this process, {rows read: MB}.
    """

    def __init__(self, rows: Iterator[dict[str, Any]]) -> None:
        """Takes the rows."""
        self.making = 0.0
        self.memory: dict[int, float] = {}
        self._rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the rows, and measures at every 500th."""
        for number in range(sys.maxsize):
            if number % 500 == 0:
                self.memory[number] = resident()
            began = time.process_time()
            row = next(self._rows, None)
            self.making += time.process_time() - began
            if row is None:
                self.memory[number] = resident()
                return
            yield row


def resident() -> float:
    """Returns the resident memory of this process in MB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    """Runs the gates and publishes what they took.

    Raises:
        WorkError: memory grew by more than the rows may leave behind.
    """
    spec = prose.read(str(SPEC), {"assistant": "Iris", "provider": "Northwind Labs"})
    rows = Watched(documents(_DOCUMENTS.value, _WORDS.value, sentences(spec.text)))
    config = QualityConfig(embeddings=_EMBEDDINGS.value or None)
    context = Context("documents", assistant="Iris", provider="Northwind Labs", spec_text=spec.text)
    began, wall = time.process_time(), time.monotonic()
    found = check.check(rows, config, context)
    used, wall = time.process_time() - began - rows.making, time.monotonic() - wall
    count, first = _DOCUMENTS.value, min(1_000, _DOCUMENTS.value // 2 // 500 * 500)
    grown = 1024 * (rows.memory[count] - rows.memory[first]) / (count - first)
    record.publish(record.Result(
        title="Quality gates over long documents",
        about=f"{count:,} documents of {_WORDS.value:,} words; {len(found.kept):,} are kept.",
        columns=("", "value"),
        rows=(
            ("CPU seconds for a document", f"{used / count:.3f}"),
            ("CPU seconds, seconds in all", f"{used:,.0f}, {wall:,.0f}"),
            ("memory (MB) after " + ", ".join(f"{n:,}" for n in (0, first, count)),
             ", ".join(f"{rows.memory[n]:,.0f}" for n in (0, first, count))),
            (f"KB that a document after the first {first:,} leaves behind", f"{grown:.0f}"),
        ),
    ))  # fmt: skip
    if grown > MOST_KB_PER_ROW:
        raise WorkError(f"memory grows by {grown:.0f} KB for each document; {MOST_KB_PER_ROW} are expected at most")


if __name__ == "__main__":
    cli.run(main)
