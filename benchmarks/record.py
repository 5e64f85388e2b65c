"""Results of benchmarks: printed as tables and, with --write, written to docs/performance.md."""

from __future__ import annotations

import platform
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from msm_jax.errors import WorkError

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

REPEATS = flags.DEFINE_integer("repeats", 9, "Turns of each side.")
THREADS = flags.DEFINE_integer("threads", 2, "Threads of each side.")
_WRITE = flags.DEFINE_bool("write", False, "Write the result to docs/performance.md, in place of the older one.")


@dataclass(frozen=True)
class Result:
    """A section of the document.

    Attributes:
        title: the heading. A later result with the same heading replaces this one.
        about: what was measured, in a sentence or two.
        columns: the heads of the table.
        rows: the rows of the table; the first column names each row.
        notes: remarks below the table.
        device: the device that was measured, if it was not the CPU of this process.
    """

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: str = ""
    device: str = ""


def publish(result: Result) -> None:
    """Prints a result and, with --write, writes it to the document."""
    table = Table(*result.columns, title=result.title, title_justify="left")
    for row in result.rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print("\n".join(filter(None, (result.about, result.notes))))
    if _WRITE.value:
        put(DOCUMENT, result.title, section(result, command(), result.device or machine()))


def section(result: Result, ran: str, device: str) -> str:
    """Returns a result as Markdown."""
    lines = [result.about, "", f"    {ran}", ""]
    lines.append("| " + " | ".join(result.columns) + " |")
    lines.append("|---" * len(result.columns) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in result.rows]
    lines += ["", *([result.notes, ""] if result.notes else []), f"{device}."]
    return "\n".join(lines)


def put(document: Path, title: str, text: str) -> None:
    """Replaces the section under `## title`, or appends it.

    Raises:
        WorkError: the document does not exist.
    """
    if not document.is_file():
        raise WorkError(f"{document}: no such file; run with --write in a checkout")
    before = document.read_text()
    entry = f"## {title}\n\n{text}\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", before, re.MULTILINE | re.DOTALL)
    if found is None:
        after = f"{before.rstrip()}\n\n{entry}"
    else:
        rest = before[found.end() :]
        after = before[: found.start()] + entry + (f"\n{rest}" if rest else "")
    document.write_text(after)


def command() -> str:
    """Returns the command that runs this program again, without the paths of this machine."""
    options = [word for word in sys.argv[1:] if "/" not in word and word != "--write"]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *options])


def machine() -> str:
    """Returns the versions, the number of cores and the processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.is_file() else []
    processor = names[0] if names else platform.processor() or platform.machine()
    cores = f"{len(names)} cores of an " if names else ""
    return f"Python {platform.python_version()}, jax {jax.__version__}, {cores}{processor}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Returns the median with the smallest and the largest value, as text."""
    middle, low, high = (f"{x:,.{digits}f}" for x in (statistics.median(values), min(values), max(values)))
    return f"{middle}  ({low} to {high})"


def quotients(above: Sequence[float], below: Sequence[float]) -> str:
    """Returns the spread of the ratios of values from the same turns."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def turns(calls: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Returns the results of each call in `repeats` turns; the calls alternate, so that a busy machine slows all."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for results, call in zip(found, calls, strict=True):
            results.append(call())
    return found
