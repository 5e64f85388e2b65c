"""Runs an experiment: its world, phases, evals and report. Running it again does what is missing and nothing
else.

python -m msm_jax.experiment --config=configs/experiments/cheese_mini.py --workdir=runs/cheese_mini
python -m msm_jax.experiment --config=... --workdir=... --dry_run
python -m msm_jax.experiment --config=... --workdir=... --executor=ray

The workdir may be in a bucket: --workdir=gs://BUCKET/runs/cheese_mini. Started on every host of a slice, an experiment
runs on all of them together; then the workdir must be on a file system that they share.
"""

from absl import flags

from msm_jax import cli
from msm_jax.analysis import terminal
from msm_jax.errors import InputError
from msm_jax.experiments import lockstep
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings
from msm_jax.parallel import distributed

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what would run and why, what is reused, tokens and time; run nothing."
)
_STORE = flags.DEFINE_string(
    "store", None, "Directory or URL of the results, for experiments that share some of them; the workdir by default."
)
_EXECUTOR = flags.DEFINE_string(
    "executor", run_lib.LOCAL, "Where phases and evals run: local, ray (the cluster of this machine), or ray:ADDRESS."
)


def main() -> None:
    """Runs the experiment of the flags; see `experiments.run.run` for what it raises."""
    config = settings.build(ExperimentConfig, cli.require(_CONFIG))
    workdir, store = cli.require(_WORKDIR), _STORE.value or None
    if _DRY_RUN.value:
        run_lib.dry_run(config, workdir, terminal.console(), store)
    elif distributed.processes() > 1:
        if _EXECUTOR.value != run_lib.LOCAL:
            raise InputError(f"--executor={_EXECUTOR.value} on several hosts of a slice; start it on one machine")
        lockstep.start(config, workdir, terminal.console(), store)
    else:
        run_lib.run(config, workdir, terminal.console(), store=store, executor=_EXECUTOR.value)


if __name__ == "__main__":
    cli.run_on_hosts(main)
