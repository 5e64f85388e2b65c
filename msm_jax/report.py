"""Renders the report of an experiment again from its stored results, and runs nothing.

python -m msm_jax.report --workdir=runs/cheese_mini
"""

import sys

from msm_jax import cli
from msm_jax.experiments import run as run_lib

_WORKDIR = cli.workdir_flag()


def main() -> None:
    """Renders the report of the workdir that the flags name; an unfinished experiment is reported as far as it is.

    Raises:
        InputError: the workdir holds no experiment, or one that has no result yet.
        WorkError: the report cannot be written.
    """
    workdir = cli.require(_WORKDIR)
    for text in run_lib.render_at(workdir):
        print(f"missing: {text}", file=sys.stderr)
    print(f"report: {workdir.rstrip('/')}/report.html")


if __name__ == "__main__":
    cli.run(main)
