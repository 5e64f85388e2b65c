"""The console that tables are printed on."""

from typing import TextIO

from rich.console import Console

_LOG_WIDTH = 140


def console(file: TextIO | None = None) -> Console:
    """Returns a console on `file`, or on standard output if None.

    Rich would assume a width of 80 columns where the output is not a terminal, and cut wider text.
    """
    out = Console(file=file, highlight=False)
    if not out.is_terminal:
        out.width = _LOG_WIDTH
    return out
