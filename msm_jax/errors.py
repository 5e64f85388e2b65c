"""The three ways a command ends early, and the causes of an exception. Every room may import this module.

`msm_jax.cli.run` maps the three to exit codes.
"""

from collections.abc import Iterator


class InputError(ValueError):
    """Refused before work begins (flags, config, the content of an input file or checkpoint): exit status 2.

    The message is one line that says what was wrong, where (file:line, field) and what to do.
    """


class WorkError(RuntimeError):
    """Failed during work (disk full, non-finite loss): exit status 1. The message is one line: what, where, what to
    do."""


class Preempted(RuntimeError):
    """Stopped by a signal after a checkpoint was saved: exit status 75; running the same command again continues."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and then what led to it, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
