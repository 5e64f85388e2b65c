"""Renders the report of an experiment again from its stored results, and runs nothing.

python -m msm_jax.report --workdir=runs/cheese_mini
"""

import sys

from msm_jax import cli
from msm_jax.experiments import run as run_lib

_WORKDIR = cli.workdir_flag()


def main() -> None:
    """Renders the report of the directory that the flags name; an unfinished experiment is reported as far as it is.

    Raises:
        InputError: the directory holds no experiment, or one that has no result yet.
        WorkError: the report cannot be written.
    """
    workdir = cli.directory(_WORKDIR)
    missing = run_lib.render(run_lib.load(workdir), workdir)
    for text in missing:
        print(f"missing: {text}", file=sys.stderr)
    print(f"report: {workdir / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
