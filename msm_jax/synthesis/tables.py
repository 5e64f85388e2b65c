"""Tables of a finished run for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def coverage(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a row for each subdomain: its assertions, and the fewest and most documents written for one of them.

    Args:
        rows: the content of `coverage.json`.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["domain"], row["subdomain"]), []).append(row)
    shown = Table(box=None, pad_edge=False)
    for name in ("domain", "subdomain", "assertions", "planned for each", "written for each"):
        shown.add_column(name, justify="left" if name in ("domain", "subdomain") else "right")
    for (domain, subdomain), members in groups.items():
        spans = [_span([row[field] for row in members]) for field in ("planned", "written")]
        shown.add_row(domain[:40], subdomain[:40], str(len(members)), *spans)
    return shown


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
