"""The three ways a command ends early. Every room may import this module; `msm_jax.cli.run` maps them to exit codes."""


class InputError(ValueError):
    """Refused before work begins (flags, config, the content of an input file or checkpoint): exit status 2.

    The message is one line that says what was wrong, where (file:line, field) and what to do.
    """


class WorkError(RuntimeError):
    """Failed during work (disk full, non-finite loss): exit status 1. The message is one line: what, where, what to
    do."""


class Preempted(RuntimeError):
    """Stopped by a signal after a checkpoint was saved: exit status 75; running the same command again continues."""
