"""`msm_jax.sweep` over the small experiment, and the program of its points: training and scoring are stand-ins."""

import functools
import sys

from experiments_small import FAKES

from msm_jax import cli
from msm_jax.analysis import plots


def main() -> None:
    """Runs the sweep where the command line names fields to vary, and otherwise the experiment of one point."""
    if any(word.startswith("--vary") for word in sys.argv):
        from msm_jax import sweep
        from msm_jax.experiments import sweep as sweep_lib

        sweep_lib.run = functools.partial(sweep_lib.run, program="sweep_small")
        cli.run(sweep.main)
    from msm_jax import experiment
    from msm_jax.experiments import run as run_lib

    run_lib.run = functools.partial(run_lib.run, executors=FAKES, setup="")
    plots.render = lambda findings: {}
    cli.run(experiment.main)


if __name__ == "__main__":
    main()
