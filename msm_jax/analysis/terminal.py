"""Where tables are printed."""

from typing import TextIO

from rich.console import Console

_LOG_WIDTH = 140


def console(file: TextIO | None = None) -> Console:
    """A console on `file`, standard output if None. Where that is no terminal, rich would take it for 80 columns and
    cut what is wider."""
    out = Console(file=file, highlight=False)
    if not out.is_terminal:
        out.width = _LOG_WIDTH
    return out
